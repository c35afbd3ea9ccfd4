"""Which runs a sweep consists of, and what is refused before the first."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from mixray.config.loading import override_items
from mixray.errors import InputError
from mixray.mixture import ArmResult, Mixture
from mixray.report import SweptRun
from mixray.sweeps import Sweep, _combinations, _config, _csv, _plain, sweep

JOBS = Path(__file__).parents[1] / "jobs"
QUICKSTART = JOBS / "quickstart.yaml"


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        ({"seed": 1}, "needs values to choose from"),
        ({}, "needs values to choose from"),
        ({"seed": []}, "no values of a key"),
        ({"storage": ["/a", "/b"]}, "share their name, storage"),
        ({"tracking.uri": ["a"]}, "share their name, storage and tracking"),
        ({"name": ["a", "b"]}, "share their name"),
        ({"seed": [0, "one"]}, "seed"),
        ({"proxy.token": [1, 2]}, "proxy.token"),
        ({"retrain.arms": ["mixmin", "balanced"]}, r"list of lists(.|\n)*retrain.arms=\[\[mixmin\], \[...\]\]"),
    ],
)
def test_wrong_sweeps_are_refused_before_anything_runs(tmp_path: Path, overrides: dict[str, Any], match: str) -> None:
    storage = tmp_path / "storage"
    with pytest.raises(InputError, match=match):
        sweep(QUICKSTART, {"storage": str(storage), **overrides})
    assert not storage.exists()


def test_a_comparison_of_robust_training_is_not_swept() -> None:
    with pytest.raises(InputError, match="searches for a mixture"):
        sweep(JOBS / "robust_digits.yaml", {"seeds": [1, 2]})


def test_the_sweeps_that_are_recommended_are_valid() -> None:
    text = (JOBS / "README.md").read_text(encoding="utf-8")
    commands = [line.split("`")[1] for line in text.splitlines() if "| `mixray sweep FILE " in line]
    assert len(commands) >= 4
    for command in commands:
        overrides = shlex.split(command.replace("NAME", "pandas"))[3:]
        fixed, combinations = _combinations(dict(override_items(overrides)))
        assert len({_config(QUICKSTART, {**fixed, **swept}).model_dump_json() for swept in combinations}) >= 3


def test_dates_are_text_in_json() -> None:
    (value,) = dict(override_items(["sources.a.where.day=2024-01-31"])).values()
    sweep_of_days = Sweep(["day"], [SweptRun({"day": _plain(value)}, {}, "runs/a")], "sweeps/a")
    assert json.loads(json.dumps(sweep_of_days.to_dict()))["runs"][0]["settings"] == {"day": "2024-01-31"}


def test_the_table_has_losses_shares_and_what_a_difference_is_to() -> None:
    arms = {"mixmin": ArmResult(nll=2.0), "balanced": ArmResult(nll=2.5, difference=0.5)}
    first = Mixture.from_weights({"a": 0.25, "b": 0.75})
    second = Mixture.from_weights({"a": 0.5, "b": 0.5}).model_copy(update={"retrain": arms, "loss": {"mixmin": 3.0}})
    runs = [SweptRun({"seed": 0}, {"zoo": first}, "runs/a"), SweptRun({"seed": 1}, {"zoo": second}, "runs/b")]
    header, *rows = _csv(["seed"], runs).splitlines()
    names = header.split(",")
    assert names[-2:] == ["share.a", "share.b"]
    mixmin, balanced = (dict(zip(names, row.split(","), strict=True)) for row in rows)
    assert (mixmin["predicted"], mixmin["held_out"], mixmin["share.a"], mixmin["moved_from_last"]) == (
        "3.0",
        "2.0",
        "0.5",
        "0.0",
    )
    assert (balanced["arm"], balanced["difference"], balanced["reference"]) == ("balanced", "0.5", "mixmin")
