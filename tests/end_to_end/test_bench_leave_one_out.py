"""The benchmark that leaves one assay out: its results are those of their own target and settings."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_leave_one_out", JOBS / "bench_leave_one_out.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


def test_a_target_has_no_results_of_one_whose_name_begins_with_its_own(bench: ModuleType, tmp_path: Path) -> None:
    labels = np.tile([0, 1, 1], 50)
    good, bad = np.log(np.linspace(0.6, 0.9, 150)), np.log(np.linspace(0.1, 0.9, 150))
    for name, values in {"NR-AR-0": (good, bad), "NR-AR-LBD-0": (bad, good)}.items():
        np.savez(tmp_path / f"{name}.npz", labels=labels, mixmin=values[0], natural=values[1])
    mean, _, _, seeds = bench.gains(tmp_path, "NR-AR", "natural", "mixmin")
    assert seeds == 1
    assert mean > 0
    assert bench.gains(tmp_path, "NR-AR-LBD", "natural", "mixmin")[0] == pytest.approx(-mean)


def test_a_molecule_that_is_written_twice_keeps_the_labels_of_both_rows(bench: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"smiles": ["C", "CO", "C"], "a": [1, 0, None], "b": [None, 0, 1]}), path)
    assays = bench.read_assays(path, 1, 1)
    assert assays.labels.tolist() == [[1, 1], [0, 0]]


def test_results_of_other_settings_are_not_taken_for_these(bench: ModuleType, tmp_path: Path) -> None:
    bench.require_same_settings(tmp_path, {"held_out_of": "all"})
    bench.require_same_settings(tmp_path, {"held_out_of": "all"})
    with pytest.raises(SystemExit, match="other settings"):
        bench.require_same_settings(tmp_path, {"held_out_of": "target"})
