"""Figures are bytes of a known size and the same for the same numbers; what they show is read back from the SVG."""

from __future__ import annotations

import math
import re
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest

from mixray.mixture import Mixture
from mixray.report.figures import (
    Format,
    convergence_figure,
    curves_figure,
    held_out_figure,
    losses_figure,
    weights_figure,
)
from mixray.report.tables import ArmShares
from mixray.store import HeldOutCurve

Draw = Callable[[Format], bytes]
FIGURES = ("weights", "losses", "convergence", "curves", "held_out")
CURVES = {
    f"proxy/{name}": [(step * 2000, rank + 8 * math.exp(-step / 20)) for step in range(1, 100)]
    for rank, name in enumerate("abcdefghij")
}


@pytest.fixture
def drawings(mixture: Mixture, arm_shares: ArmShares) -> dict[str, Draw]:
    gaps = [0.3, 0.05, 4e-3, 1e-6, 0.0]
    losses = [3.5 + gap for gap in gaps]
    held_out = {arm: HeldOutCurve(16, 2048, CURVES[f"proxy/{arm[0]}"][8::10]) for arm in ("balanced", "current")}
    held_out = {"mixmin": HeldOutCurve(16, 2048, CURVES["proxy/a"][9::10]), **held_out}
    return {
        "weights": lambda kind: weights_figure(mixture, arm_shares, format=kind),
        "losses": lambda kind: losses_figure(mixture, format=kind),
        "convergence": lambda kind: convergence_figure(gaps, losses, 1e-8, solver="newton", format=kind),
        "curves": lambda kind: curves_figure(CURVES, title="Training loss of the proxies", format=kind),
        "held_out": lambda kind: held_out_figure(
            {"zoo": held_out, "farm": {"mixmin": held_out["mixmin"]}}, format=kind
        ),
    }


@pytest.mark.parametrize(("name", "kind"), [*((name, "svg") for name in FIGURES), ("weights", "png")])
def test_the_same_numbers_give_the_same_bytes(drawings: dict[str, Draw], name: str, kind: Format) -> None:
    assert drawings[name](kind) == drawings[name](kind)


@pytest.mark.parametrize("name", FIGURES)
def test_a_png_is_wide_enough_to_read_and_not_blank(drawings: dict[str, Draw], name: str) -> None:
    image = drawings[name]("png")
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", image[16:24])
    assert 600 <= width <= 1400
    assert 300 <= height <= 1400
    assert len(image) > 10_000


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("weights", "Mixture for sklearn|share of training tokens (%)|python|stackexchange|95 % interval|natural"),
        ("losses", "predicted: proxies' mixture, fit part|realised: retrained model, held-out part|3.0112|3.2112"),
        ("convergence", "certified gap|(nats per token)|tolerance 1e-08|round|Convergence of the newton solver"),
        (
            "held_out",
            "zoo: a sample of 16 held-out rows, 2,048 tokens|farm: a sample of 16 held-out rows, 2,048 tokens|"
            "balanced|held-out loss|training tokens",
        ),
        ("curves", "training tokens|training loss (nats per token)|proxy/a|proxy/j"),
    ],
)
def test_a_figure_says_what_it_shows_and_in_which_unit(drawings: dict[str, Draw], name: str, texts: str) -> None:
    said = re.findall("<!-- (.*?) -->", drawings[name]("svg").decode(), re.DOTALL)  # matplotlib notes every text so
    lines = [line for text in said for line in text.splitlines()]
    assert set(texts.split("|")) <= set(lines)


def test_other_numbers_give_another_figure(mixture: Mixture, arm_shares: ArmShares) -> None:
    moved = mixture.model_copy(update={"interval": dict.fromkeys(mixture.sources, (0.0, 0.9))})
    assert weights_figure(moved, arm_shares) != weights_figure(mixture, arm_shares)
    assert weights_figure(mixture, {}) != weights_figure(mixture, arm_shares)


def test_without_retraining_only_the_prediction_is_drawn(mixture: Mixture) -> None:
    svg = losses_figure(mixture.model_copy(update={"retrain": {}}), format="svg").decode()
    assert "predicted" in svg
    assert "realised" not in svg


def test_many_sources_make_a_taller_figure() -> None:
    sources = [f"source-{number}" for number in range(22)]
    mixture = Mixture(sources=sources, weights=dict.fromkeys(sources, 1 / 22), targets=["pile"])
    heights = []
    for part in (mixture, Mixture(sources=["a"], weights={"a": 1.0}, targets=["pile"])):
        heights.append(struct.unpack(">I", weights_figure(part, {})[20:24])[0])
    assert heights[0] > 3 * heights[1]


def test_drawing_leaves_pyplot_alone() -> None:
    code = (
        "import sys; from mixray.report import curves_figure;"
        "curves_figure({'a': [(1, 2.0)]}, title='t'); print('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
