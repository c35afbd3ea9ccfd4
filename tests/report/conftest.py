"""A finished mixture of six sources, three arms judged on 213 held-out documents."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from mixray.mixture import ArmResult, Mixture, MixtureWarning
from mixray.report import SearchCost, Work
from mixray.report.tables import ArmShares

SOURCES = ("python", "cpp", "wiki", "logs", "books-and-more", "stackexchange")
SHARES = (0.6213, 0.25, 0.1, 0.0283, 0.0004, 0.0)


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def arm_shares() -> ArmShares:
    natural = dict(zip(SOURCES, (0.1, 0.1, 0.5, 0.1, 0.15, 0.05), strict=True))
    return {"balanced": dict.fromkeys(SOURCES, 1 / 6), "natural": natural}


@pytest.fixture
def mixture() -> Mixture:
    weights = dict(zip(SOURCES, SHARES, strict=True))
    assert math.isclose(math.fsum(SHARES), 1)
    return Mixture(
        sources=list(SOURCES),
        weights=weights,
        run="quickstart-1a2b3c4d",
        targets=["sklearn"],
        unit="document",
        interval={source: (max(0.0, share - 0.05), min(1.0, share + 0.07)) for source, share in weights.items()},
        loss={"natural": 3.61, "balanced": 3.4021, "mixmin": 3.2112},
        gap=3.2e-10,
        rounds=9,
        solver="newton",
        tolerance=1e-8,
        status="converged",
        epochs={source: 3 * share for source, share in weights.items()},
        retrain={
            "mixmin": ArmResult(nll=3.0112, tokens=2_000_000, documents=213, seconds=61.0),
            "balanced": _later_arm(3.1503, 0.1391, 0.12, 0.158),
            "natural": _later_arm(3.2901, 0.2789, 0.22, 0.338),
        },
        compute=SearchCost([Work(1000, 500)] * 6, [Work(1000, 100)] * 6, Work(100_000, 90_000)).compute(),
        warnings=[MixtureWarning(code="few_documents", message="the fit part has only 12 documents")],
    )


def _later_arm(nll: float, difference: float, low: float, high: float) -> ArmResult:
    return ArmResult(
        nll=nll,
        tokens=2_000_000,
        documents=213,
        seconds=61.0,
        difference=difference,
        difference_low=low,
        difference_high=high,
    )
