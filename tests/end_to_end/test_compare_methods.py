"""The comparison of mixmin with other methods: every method is retrained, and what is stored is not made again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import small_run

JOBS = Path(__file__).parents[2] / "jobs"


def compare(folder: Path, *arguments: str) -> str:
    """Return what the comparison of a tiny run prints."""
    run = [str(folder / "run.yaml"), "proxy.tokens=2_000", "retrain.tokens=3_000"]
    command = [sys.executable, "compare_methods.py", *run, "--swarms", "5", "--around", "4", *arguments]
    return subprocess.run(command, cwd=JOBS, capture_output=True, text=True, check=True, timeout=300).stdout


def test_methods_are_compared_over_seeds(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    small_run(tmp_path, targets={"zoo": {"jsonl": str(tmp_path / "zoo.jsonl")}})
    printed = compare(tmp_path, "--seeds", "0", "1", "--figure", str(tmp_path / "losses.svg"))
    table = printed[printed.rindex("| method |") :].splitlines()
    rows = {cells[1].strip(): cells[2:-1] for cells in (line.split("|") for line in table[2:])}
    assert {"mixmin", "balanced", "natural", "random_search", "regmix", "mixmin_with_swarm"} <= rows.keys()
    models = {name: int(cells[0]) for name, cells in rows.items()}
    assert models["balanced"] == 0  # cheap models that were trained to find the mixture
    assert models["mixmin"] == 3
    assert models["random_search"] == 5
    assert models["doremi"] == 6
    assert rows["mixmin for zoo"][1].strip() == "+0.0000 ± 0.0000"
    assert models["mixmin_with_swarm"] == 8
    assert models["mixmin_with_swarm around it"] == 7
    assert all(re.fullmatch(r"[+-]\d\.\d{4} ± \d\.\d{4}", cell.strip()) for cell in rows["balanced"][1:2])
    assert "<svg" in (tmp_path / "losses.svg").read_text()

    again = compare(tmp_path, "--seeds", "0")
    assert "trained" not in again
    assert printed[printed.index("| method |") :].startswith(again[again.index("| method |") :])
