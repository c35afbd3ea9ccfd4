"""Tables and figures of a sweep over runs."""

from __future__ import annotations

import struct

import pytest

from mixray.mixture import Mixture
from mixray.report import SweptRun, moved, run_tables, sweep_figure
from tests.report.test_tables import printed


def other(mixture: Mixture) -> Mixture:
    """The same mixture with a tenth of all training tokens moved from python to cpp."""
    weights = dict(mixture.weights)
    weights["python"], weights["cpp"] = weights["python"] - 0.1, weights["cpp"] + 0.1
    return mixture.model_copy(update={"weights": weights})


def test_how_far_mixtures_are_apart(mixture: Mixture) -> None:
    assert moved(mixture, other(mixture)) == pytest.approx(0.1)
    assert moved(mixture, mixture) == 0
    names = {source: f"new {source}" for source in mixture.sources}
    renamed = mixture.model_copy(update={"weights": {names[key]: share for key, share in mixture.weights.items()}})
    assert moved(mixture, renamed) == pytest.approx(1)


def test_a_row_for_every_run(mixture: Mixture) -> None:
    runs = [
        SweptRun({"proxy.tokens": 20_000, "seed": 0}, {"sklearn": other(mixture)}, "runs/a"),
        SweptRun({"proxy.tokens": 80_000, "seed": 0}, {"sklearn": mixture, "extra": mixture}, "runs/b"),
        SweptRun({"proxy.tokens": 90_000, "seed": 0}, {}, "runs/c"),
    ]
    table, of_extra = run_tables(runs)  # the second run alone has another mixture
    assert len(printed(of_extra, width=220)) == 4
    lines = printed(table, width=220)
    assert lines[1].split("  ")[0].strip() == "proxy.tokens"
    assert "20000" in lines[2]
    assert "10.0 %" in lines[2]  # moved from the last row
    assert "+0.1391 [+0.1200, +0.1580]" in lines[2]
    assert "python 62.1 %" in lines[3]
    assert not any("90000" in line for line in lines)


@pytest.mark.parametrize(
    "values", [[1e4, 1e5, 1e5], ["optimum", "nearest", "nearest"], [True, False, False], [0, 1, 1]]
)
def test_a_figure_for_numbers_and_names(mixture: Mixture, values: list[object]) -> None:
    png = sweep_figure("a.key", values, [mixture, other(mixture), mixture])
    width, height = struct.unpack(">II", png[16:24])
    assert png[:4] == b"\x89PNG"
    assert min(width, height) > 400
    assert png == sweep_figure("a.key", values, [mixture, other(mixture), mixture])


def test_predicted_losses_are_drawn_where_nothing_was_retrained(mixture: Mixture) -> None:
    searched = mixture.model_copy(update={"retrain": {}})
    assert sweep_figure("seed", [0, 1], [searched, searched]) != sweep_figure("seed", [0, 1], [mixture, mixture])
    (table,) = run_tables([SweptRun({"seed": 0}, {"sklearn": searched}, "runs/a")])
    assert "minus" not in "\n".join(printed(table, width=200))
