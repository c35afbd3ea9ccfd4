"""The swarm of a run, without training: its mixtures, what stored losses say, and what other methods make of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mixray.cache import PredictionCache
from mixray.config import RunConfig, parse_config
from mixray.errors import InputError
from mixray.export import read_swarm
from mixray.export.swarm import swarm_csv
from mixray.mixture import Mixture
from mixray.search import (
    MeasuredSwarm,
    NoiseFloor,
    arm_models,
    baseline_shares,
    design_mixtures,
    find_mixture,
    swarm_seeds,
    swarm_tokens,
    with_rivals,
)
from mixray.search.problem import limits_broken
from mixray.search.solving import SolvedMixture
from mixray.search.swarm import without_small_shares
from mixray.store import Artifact, Artifacts, ModelMeta, Storage

Floats = NDArray[np.float64]
Configure = Callable[..., RunConfig]
SOURCES = ["python", "cpp", "text"]
AVAILABLE = {"python": 60_000, "cpp": 20_000, "text": 5_000}
BEST = np.array([0.25, 0.65, 0.1])
METHODS = ["random_search", "ridge", "regmix", "mixing_law", "gaussian_process", "mixmin_with_swarm"]


@pytest.fixture(scope="module")
def configure() -> Configure:
    text = """
name: demo
seed: 4
tokenizer: {train: {}}
window: 8
sources: {python: {files: "*.py"}, cpp: {files: "*.h"}, text: {files: "*.txt"}}
targets: {one: {files: "*.md"}}
proxy: {model: {architecture: gpt_neox}, tokens: 8_000}
swarm: {mixtures: 40}
mixture: {bootstrap: 10}
retrain: {model: {architecture: gpt_neox}, tokens: 40_000}
"""
    return lambda *overrides: parse_config(text, overrides)


def answer_of(weights: Floats) -> Mixture:
    return Mixture(sources=SOURCES, weights=dict(zip(SOURCES, weights.tolist(), strict=True)), targets=["one"])


# ------------------------------------------------------------------------------------------------------------ mixtures


@pytest.mark.parametrize("design", ["dirichlet", "sobol", "d_optimal", "around_answer"])
@pytest.mark.parametrize(
    "limits",
    [
        "{}",
        "{bounds: {python: [0.1, 0.4]}}",
        "{groups: [{sources: [python, cpp], max: 0.8}], bounds: {text: [0.05, 1]}}",
        "{max_epochs: 0.9}",
    ],
)
def test_mixtures_of_every_design_keep_the_limits(configure: Configure, design: str, limits: str) -> None:
    config = configure(f"swarm.design={design}", f"mixture={limits}", "swarm.mixtures=25")
    mixtures = design_mixtures(config, AVAILABLE, {"one": answer_of(BEST)})
    assert list(mixtures) == [f"mixture.{number}" for number in range(25)]
    for shares in mixtures.values():
        assert list(shares) == SOURCES
        assert sum(shares.values()) == pytest.approx(1, abs=1e-12)
        assert limits == "{}" or not limits_broken(config, AVAILABLE, shares)


def test_a_budget_below_one_step_is_refused(configure: Configure) -> None:
    with pytest.raises(InputError, match=r"swarm.tokens[\s\S]*at least one step"):
        configure("swarm.tokens=7")


def test_shares_below_a_window_are_left_out(configure: Configure) -> None:
    config = configure("swarm.tokens=800")  # a window of 8 tokens is a hundredth
    shares = np.array([list(each.values()) for each in design_mixtures(config, AVAILABLE, {}).values()])
    assert ((shares == 0) | (shares >= 0.01)).all()
    assert (shares == 0).any()
    np.testing.assert_allclose(
        without_small_shares(np.array([[0.005, 0.395, 0.6]]), 0.01), [[0, 0.397, 0.603]], atol=1e-3
    )


def test_models_of_replicates_have_seeds_and_names_of_their_own(configure: Configure) -> None:
    config = configure("swarm.replicates=3")
    assert swarm_seeds(config, "mixture7") == {"mixture7": 4, "mixture7.seed5": 5, "mixture7.seed6": 6}
    assert (swarm_tokens(config), swarm_tokens(configure("swarm.tokens=500"))) == (8_000, 500)


# --------------------------------------------------------------------------------------------------------------- noise


def test_the_noise_floor_tells_seeds_apart_from_mixtures() -> None:
    """Losses are a mixture's and noise of 0.02. What a seed then adds to all mixtures is no part of differences."""
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        losses = draw.normal(5, 1, (16, 1)) + draw.normal(0, 0.02, (16, 4))
        noise = NoiseFloor.of(losses)
        assert noise is not None
        covered += noise.low <= 0.02 <= noise.high
    assert 181 <= covered <= 197  # 95 % of 200, and three standard errors to either side
    common = NoiseFloor.of(losses + np.array([0.0, 1.0, 2.0, -1.0]))
    assert common is not None
    assert common.seed_sd > 1
    assert common.difference_sd == pytest.approx(noise.difference_sd)
    assert noise.difference_sd == pytest.approx(0.02 * 2**0.5, rel=0.3)
    assert noise.degrees == 45
    assert "n = 16 mixtures x 4 seeds" in noise.sentence("one", "nats per token")


@pytest.mark.parametrize("shape", [(5, 1), (1, 5)])
def test_one_seed_or_one_mixture_tells_nothing_about_noise(shape: tuple[int, int]) -> None:
    assert NoiseFloor.of(np.zeros(shape)) is None


# ---------------------------------------------------------------------------------------------------- tables and rivals


def measured(mixtures: dict[str, dict[str, float]], noise: float = 0.0) -> MeasuredSwarm:
    """A swarm whose losses are a bowl around BEST, in the square roots of the shares."""
    shares = np.array([list(each.values()) for each in mixtures.values()])
    losses = 4 + ((np.sqrt(shares) - np.sqrt(BEST)) ** 2).sum(axis=1, keepdims=True)
    losses = losses + np.random.default_rng(0).normal(0, noise, (len(shares), 2))
    return MeasuredSwarm(list(mixtures), SOURCES, shares, {"fit": {"one": losses}, "held_out": {"one": losses + 1}})


def test_the_tables_are_read_by_import(configure: Configure, tmp_path: Path) -> None:
    swarm = measured(design_mixtures(configure(), AVAILABLE, {}), noise=0.1)
    for name, content in swarm_csv(swarm.table()).items():
        (tmp_path / name).write_bytes(content)
    again, warnings = read_swarm(str(tmp_path / "ratios.csv"), str(tmp_path / "metrics.csv"))
    assert warnings == []
    assert (again.runs, again.sources, again.metrics) == (swarm.names, SOURCES, ["one/fit", "one/held_out"])
    np.testing.assert_allclose(again.shares, swarm.shares, atol=1e-15)
    np.testing.assert_array_equal(again.values[:, 0], swarm.losses["fit"]["one"].mean(axis=1))


def synthetic_cache() -> PredictionCache:
    """Single tokens, each the only one that a source explains well, as often as BEST says."""
    draw = np.random.default_rng(0)
    favourite = draw.choice(3, 600, p=BEST)
    log_probs = np.log(np.where(favourite[:, None] == np.arange(3), 0.9, 0.05))
    return PredictionCache(
        models=tuple(SOURCES),
        documents=np.arange(600),
        document_ids=np.array([(number << 64).to_bytes(16, "big") for number in range(600)], "V16"),
        windows=np.zeros(600, np.int32),
        counts=np.ones(600, np.int64),
        log_probs=log_probs,
    )


@pytest.fixture(scope="module")
def chosen(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, list[SolvedMixture]]:
    """What all methods choose from a swarm with known answer, twice: the second time without the predictions."""
    config = configure(f"retrain.arms=[mixmin, {', '.join(METHODS)}]")
    artifacts, cache = Artifacts(Storage(str(tmp_path_factory.mktemp("store"))), "test"), synthetic_cache()
    mixtures = design_mixtures(config, AVAILABLE, {})
    solved = find_mixture({"one": cache}, config, available_tokens=AVAILABLE)
    meta = ModelMeta(parameters=100, tokens=8_000, seconds=1.0, curve=[(1, 2.0)]).to_meta()
    models = {name: artifacts.draft("swarm_model", name.replace(".", "-")).publish({}, meta) for name in mixtures}
    rows = artifacts.draft("rows", "rows").publish({}, {"fit": {"tokens": 600}})
    columns = {source: artifacts.draft("column", source).publish({}, {}) for source in SOURCES}

    def here(*_: object) -> AbstractContextManager[dict[str, PredictionCache]]:
        return nullcontext({"one": cache})

    def nowhere(*_: object) -> AbstractContextManager[dict[str, PredictionCache]]:
        raise AssertionError("the choice is stored")

    facts: dict[str, Any] = {"swarm": measured(mixtures, noise=0.003), "models": models, "available_tokens": AVAILABLE}
    targets: dict[str, tuple[Artifact, dict[str, Artifact]]] = {"one": (rows, columns)}
    return config, [with_rivals(artifacts, config, each, solved, targets=targets, **facts) for each in (here, nowhere)]


def test_every_method_finds_the_lowest_point_of_a_swarm_with_known_answer(
    chosen: tuple[RunConfig, list[SolvedMixture]],
) -> None:
    _, (first, again) = chosen
    mixture = first.mixture
    assert list(mixture.rivals) == METHODS
    for method, rival in mixture.rivals.items():
        shares = np.array(list(rival.weights.values()))
        above = ((np.sqrt(shares) - np.sqrt(BEST)) ** 2).sum()
        if method == "mixing_law":  # of one target, it falls all the way to a single source
            assert shares.argmax() == BEST.argmax()
        else:
            assert above < (0.1 if method in ("random_search", "ridge", "regmix") else 0.02), method
        assert rival.rank_correlation is None if method == "random_search" else rival.rank_correlation > 0.8  # type: ignore[operator]
        assert rival.search_flops == 40 * 100 * (6 * 8_000 + 2 * 600)
        assert mixture.loss["mixmin"] <= mixture.loss[method] < mixture.loss["mixmin"] + 0.3
    assert Mixture.from_json(mixture.to_json()) == mixture
    assert again.mixture == mixture


def test_arms_are_trained_on_what_the_methods_chose(chosen: tuple[RunConfig, list[SolvedMixture]]) -> None:
    config, (solved, _) = chosen
    models = arm_models(config, AVAILABLE, {"one": solved.mixture})
    assert list(models) == [f"{method}-one" for method in ("mixmin", *METHODS)]
    assert models["regmix-one"].source_shares == solved.mixture.rivals["regmix"].weights
    assert set(baseline_shares(config, AVAILABLE)) == {"balanced", "natural"}


def test_the_steps_of_the_released_code_are_an_arm(configure: Configure) -> None:
    """By hand: 100 steps shares * exp(-gradient), from balanced."""
    cache, config = synthetic_cache(), configure("retrain.arms=[mixmin, mixmin_reference]")
    mixture = find_mixture({"one": cache}, config, available_tokens=AVAILABLE).mixture
    likelihoods, shares = np.exp(cache.log_probs), np.full(3, 1 / 3)
    for _ in range(100):
        shares = shares * np.exp((likelihoods / (likelihoods @ shares)[:, None]).mean(axis=0))
        shares /= shares.sum()
    rival = mixture.rivals["mixmin_reference"]
    assert list(rival.weights.values()) == pytest.approx(shares.tolist(), abs=1e-9)
    assert rival.expected == mixture.loss["mixmin_reference"] == pytest.approx(-np.log(likelihoods @ shares).mean())
    models = arm_models(config, AVAILABLE, {"one": mixture})
    assert models["mixmin_reference-one"].source_shares == rival.weights


def test_the_mixture_nearest_to_the_prior_is_an_arm_beside_the_optimum(configure: Configure) -> None:
    cache = {"one": synthetic_cache()}
    config = configure("retrain.arms=[mixmin, {name: simple, mixture: nearest_to_prior}]")
    mixture = find_mixture(cache, config, available_tokens=AVAILABLE).mixture
    chosen = find_mixture(cache, configure("mixture.choose.rule=nearest_to_prior"), available_tokens=AVAILABLE).mixture
    assert mixture.rivals["nearest_to_prior"].weights == pytest.approx(chosen.weights, abs=1e-6)
    assert mixture.weights != pytest.approx(chosen.weights, abs=1e-3)
    assert mixture.loss["nearest_to_prior"] == pytest.approx(chosen.loss["mixmin"], abs=1e-8)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["mixture.over=worst", "retrain.arms=[mixmin, mixmin_reference]"], "retrain.arms.1"),
        (["mixture.prior.strength=0.1", "retrain.arms=[nearest_to_prior, mixmin]"], "retrain.arms.0"),
        (["swarm=null", "retrain.arms=[mixmin, regmix]"], "swarm"),
        (["swarm.mixtures=3", "retrain.arms=[mixmin, {name: a, mixture: ridge}]"], "swarm.mixtures"),
        (["mixture.over=worst", "retrain.arms=[mixmin, regmix]"], "retrain.arms.1"),
    ],
)
def test_methods_that_do_not_fit_the_run_are_refused(configure: Configure, overrides: list[str], key: str) -> None:
    with pytest.raises(InputError, match=f"{key} is not valid"):
        configure(*overrides)


def test_a_run_without_a_swarm_has_the_same_resolved_config_as_before(configure: Configure) -> None:
    assert "swarm" not in configure("swarm=null").model_dump()
    assert configure().model_dump()["mixture"]["prior"] == {"shares": "balanced", "strength": 0.0}
