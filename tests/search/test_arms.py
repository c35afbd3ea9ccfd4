"""The arms of a comparison, without training: what is retrained, and what stored losses on held-out documents say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mixray.cache import PredictionCache
from mixray.config import RunConfig, parse_config
from mixray.mixture import ArmResult, Mixture
from mixray.search import ArmArtifacts, arm_models, find_mixture, held_out_curves, with_held_out_results
from mixray.search.problem import limits_broken
from mixray.store import Artifact, Artifacts, HeldOutCurve, ModelMeta, SourceLoss, Storage, encode

AVAILABLE = {"python": 6_000, "cpp": 2_000}
CURRENT = "{name: current, shares: {python: 0.9, cpp: 0.1}}"
DRO = "{name: dro, mixture: mixmin, objective: {kind: group_dro}}"
MIXTURES = {
    name: Mixture(sources=["python", "cpp"], weights={"python": share, "cpp": 1 - share}, targets=[name])
    for name, share in (("one", 0.25), ("two", 0.75))
}
Configure = Callable[..., RunConfig]


@pytest.fixture
def configure() -> Configure:
    text = """
name: demo
seed: 4
tokenizer: {train: {}}
window: 8
sources: {python: {files: "*.py"}, cpp: {files: "*.h"}}
targets: {one: {files: "*.txt"}, two: {files: "*.md"}}
proxy: {model: {architecture: gpt_neox}, tokens: 1_000}
mixture: {bootstrap: 10}
retrain: {model: {architecture: gpt_neox}, tokens: 4_000}
"""
    return lambda *overrides: parse_config(text, overrides)


def test_every_arm_is_a_model_for_each_replicate_with_the_same_seeds(configure: Configure) -> None:
    config = configure(f"retrain.arms=[mixmin, natural, {CURRENT}, {DRO}]", "retrain.replicates=2")
    models = arm_models(config, AVAILABLE, MIXTURES)
    names = ["mixmin-one", "mixmin-two", "natural", "current", "dro-one", "dro-two"]
    assert list(models) == [each for name in names for each in (name, f"{name}.seed5")]
    assert {name: model.seed for name, model in models.items()} == {name: 4 + name.endswith("5") for name in models}
    assert models["natural"].source_shares == {"python": 0.75, "cpp": 0.25}
    assert models["current"].source_shares == models["current.seed5"].source_shares == {"python": 0.9, "cpp": 0.1}
    assert models["dro-two"].source_shares == models["mixmin-two"].source_shares == MIXTURES["two"].weights
    kinds = {name: model.objective.kind for name, model in models.items() if model.objective.kind != "erm"}
    assert set(kinds) == {name for name in models if name.startswith("dro")}


@pytest.mark.parametrize(("most", "cpp"), [("null", 0.5), ("0.6", 1200 / 4000)])
def test_arms_by_size_are_trained_on_what_sizes_and_epochs_make_of_them(
    configure: Configure, most: str, cpp: float
) -> None:
    """6,000 and 2,000 tokens are there, and 4,000 are trained on."""
    config = configure(
        "retrain.arms=[mixmin, unimax, {name: root, mixture: temperature}]", f"mixture.max_epochs={most}"
    )
    models = arm_models(config, AVAILABLE, MIXTURES)
    assert models["unimax"].source_shares == pytest.approx({"python": 1 - cpp, "cpp": cpp})
    assert models["root"].source_shares["python"] == pytest.approx(3**0.5 / (1 + 3**0.5))
    assert not limits_broken(config, AVAILABLE, models["unimax"].source_shares)


def test_shares_that_are_rounded_are_scaled_to_sum_to_one(configure: Configure) -> None:
    rounded = "{name: thirds, shares: {python: 0.3333333, cpp: 0.6666666}}"
    shares = arm_models(configure(f"retrain.arms=[{rounded}]"), AVAILABLE, MIXTURES)["thirds"].source_shares
    assert sum(shares.values()) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("settings", "broken"),
    [
        ("{}", []),
        ("{bounds: {python: [0, 0.9]}}", []),
        ("{bounds: {python: [0, 0.5], cpp: [0.2, 1]}}", ["python at most 0.5 (has 0.9)", "cpp at least 0.2 (has 0.1)"]),
        ("{groups: [{sources: [python, cpp], min: 1}, {sources: [cpp], min: 0.3}]}", ["cpp at least 0.3 (has 0.1)"]),
        ("{max_epochs: 0.5}", ["python at most 0.5 epochs (has 0.6)"]),
    ],
)
def test_the_limits_that_shares_do_not_keep_are_named(configure: Configure, settings: str, broken: list[str]) -> None:
    config = configure(f"mixture={settings}")
    assert limits_broken(config, AVAILABLE, {"python": 0.9, "cpp": 0.1}) == broken


# ---------------------------------------------------------------------------------------------------- their predictions


def predictions(documents: int, gap: float = 2.0) -> PredictionCache:
    """Documents of 10 tokens; each source's proxy is better on half of them, by ``gap`` nats per token."""
    hard = np.random.default_rng(0).uniform(20, 30, documents)
    log_probs = -np.stack([hard, hard], axis=1)
    log_probs[np.arange(documents), np.arange(documents) % 2] -= 10 * gap
    return PredictionCache(
        models=("python", "cpp"),
        documents=np.arange(documents),
        document_ids=np.array([number.to_bytes(8, "big") + bytes(8) for number in range(documents)], "V16"),
        windows=np.zeros(documents, np.int32),
        counts=np.full(documents, 10),
        log_probs=log_probs,
    )


def found(config: RunConfig, cache: PredictionCache) -> Mixture:
    return find_mixture({"one": cache}, config, available_tokens=AVAILABLE).mixture


def loss_of(cache: PredictionCache, *shares: float) -> float:
    with np.errstate(divide="ignore"):
        return float(-np.logaddexp.reduce(cache.log_probs + np.log(shares), axis=1).mean() / 10)


def test_a_mixture_of_the_users_own_is_predicted_and_compared_with(configure: Configure) -> None:
    cache = predictions(60)
    mixture = found(configure(f"retrain.arms=[mixmin, {CURRENT}]"), cache)
    assert mixture.loss["current"] == pytest.approx(loss_of(cache, 0.9, 0.1), rel=1e-12)
    assert set(mixture.gain) == {"balanced", "natural", "current"}
    assert mixture.gain["current"].estimate > 0.02
    without = found(configure(), cache)
    assert {arm: loss for arm, loss in mixture.loss.items() if arm != "current"} == without.loss
    assert mixture.weights == without.weights


def test_a_mixture_that_leaves_out_what_a_long_document_needs_has_its_loss(configure: Configure) -> None:
    """The likelihoods of the two sources are 1,500 nats apart, which no float64 holds side by side."""
    cache = predictions(20, gap=150.0)
    mixture = found(configure("retrain.arms=[mixmin, {name: one, shares: {python: 1, cpp: 0}}]"), cache)
    assert mixture.loss["one"] == pytest.approx(loss_of(cache, 1, 0), rel=1e-12)
    assert mixture.loss["one"] - mixture.loss["mixmin"] > 70
    assert mixture.gain["one"].estimate == pytest.approx(mixture.loss["one"] - mixture.loss["mixmin"], abs=0.01)


# ------------------------------------------------------------------------------------------------ their held-out losses


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(Storage(str(tmp_path)), "test")


def results(
    config: RunConfig, artifacts: Artifacts, losses: dict[str, list[float]], mixtures: dict[str, Mixture]
) -> dict[str, dict[str, ArmResult]]:
    """``losses``: model -> nats per token of every held-out document, the same for every target."""
    documents = len(next(iter(losses.values())))
    keys = {
        "document": pa.array([number.to_bytes(8, "big") + bytes(8) for number in range(documents)], pa.binary(16)),
        "window": pa.array(np.zeros(documents, np.int32)),
    }

    def publish(kind: str, id: str, **values: Any) -> Artifact:
        draft, name = artifacts.draft(kind, id.replace(".", "-")), "held_out-00000.parquet"
        data = encode(pa.table(keys | values))
        return draft.publish({name: draft.write(name, data)}, {"fit": {"tokens": 100}})

    def model(kind: str, name: str, number: int) -> Artifact:
        measured = {source: SourceLoss(0.5, 8, 2.0 + number, 0.5) for source in AVAILABLE}
        weights = {source: [(1, 0.5), (2, 0.25 * (number + 1))] for source in AVAILABLE}
        meta = ModelMeta(50, 4_000, 10.0 * (number + 1), [(1, 3.0)], group_weights=weights, source_losses=measured)
        draft = artifacts.draft(kind, name.replace(".", "-"))
        return draft.publish({"weights": draft.write("weights", b"x")}, meta.to_meta())

    rows = publish("rows", "rows", count=pa.array([10] * documents, pa.int32()))
    columns = {
        name: publish("column", name, log_prob=pa.array(-10 * np.array(by_document)))
        for name, by_document in losses.items()
    }
    targets = [target for mixture in mixtures.values() for target in mixture.targets]
    of_run = ArmArtifacts(
        rows=dict.fromkeys(targets, rows),
        proxies={source: model("proxy", source, 0) for source in AVAILABLE},
        models={name: model("model", name, int(name.endswith("5"))) for name in losses},
        held_out=dict.fromkeys(targets, columns),
    )
    judged = with_held_out_results(config, artifacts.storage, mixtures, of_run, AVAILABLE)
    return {name: mixture.retrain for name, mixture in judged.items()}


def test_replicates_are_one_arm_with_the_losses_of_all_its_seeds(configure: Configure, artifacts: Artifacts) -> None:
    config = configure(f"retrain.arms=[mixmin, {CURRENT}, {DRO}]", "retrain.replicates=2")
    losses = {
        "mixmin-one": [1.0, 2.0, 3.0],
        "mixmin-one.seed5": [2.0, 3.0, 4.0],
        "current": [1.5, 2.5, 3.5],
        "current.seed5": [3.0, 4.0, 5.0],
        "dro-one": [1.0, 2.0, 3.0],
        "dro-one.seed5": [2.0, 3.0, 4.0],
    }
    arms = results(config, artifacts, losses, {"one": MIXTURES["one"]})["one"]
    assert list(arms) == ["mixmin", "current", "dro"]
    assert (arms["mixmin"].nll, arms["mixmin"].nll_by_seed) == (2.5, [2.0, 3.0])
    assert (arms["current"].difference, arms["dro"].difference) == (0.75, 0.0)
    reach = 12.7062047 * np.std([0.5, 1.0], ddof=1) / 2**0.5
    assert arms["current"].difference_interval == pytest.approx((0.75 - reach, 0.75 + reach))
    assert [(arm.mixture, arm.objective) for arm in arms.values()] == [
        ("mixmin", "erm"),
        ("shares", "erm"),
        ("mixmin", "group_dro"),
    ]
    assert (arms["dro"].tokens, arms["dro"].seconds) == (4_000, 15.0)
    assert arms["dro"].group_weights == {"python": 0.375, "cpp": 0.375}
    assert str(arms["dro"].model).endswith("model/dro-one/test")
    source = arms["dro"].sources["python"]
    assert (source.share, source.rows, source.nll) == (0.5, 16, 2.5)
    assert source.nll_high is not None
    assert source.nll_high - 2.5 == pytest.approx(12.7062047 * np.std([2.0, 3.0], ddof=1) / 2**0.5, rel=0.4)


def test_arms_that_keep_their_short_form_have_the_fields_that_they_had(
    configure: Configure, artifacts: Artifacts
) -> None:
    config = configure("retrain.arms=[mixmin, natural]", "mixture.bounds={python: [0, 0.6]}")
    losses = {"mixmin-one": [1.0, 2.0], "natural": [1.5, 2.5]}
    arms = results(config, artifacts, losses, {"one": MIXTURES["one"]})["one"]
    trained = {"tokens", "seconds", "parameters", "group_weights", "sources", "model"}
    judged = {"nll", "nll_document", "nll_token", "documents"}
    assert arms["mixmin"].model_fields_set == trained | judged
    differences = {"difference", "difference_low", "difference_high"}
    assert arms["natural"].model_fields_set == trained | judged | differences | {"outside"}
    assert arms["natural"].outside == ["python at most 0.6 (has 0.75)"]


def test_replicates_have_a_mean_over_targets(configure: Configure, artifacts: Artifacts) -> None:
    config = configure("retrain.arms=[mixmin, natural]", "retrain.replicates=2", "mixture.over=mean")
    losses = {
        "mixmin-mean": [1.0, 2.0],
        "mixmin-mean.seed5": [2.0, 3.0],
        "natural": [2.0, 3.0],
        "natural.seed5": [3, 4.0],
    }
    joint = MIXTURES["one"].model_copy(update={"targets": ["one", "two"], "over": "mean"})
    arms = results(config, artifacts, losses, {"mean": joint})["mean"]
    assert (arms["natural"].nll_by_seed, arms["natural"].difference) == ([2.5, 3.5], 1.0)
    assert arms["natural"].documents == 4
    assert set(arms["natural"].targets) == {"one", "two"}


def test_curves_are_means_over_replicates_of_arms_that_were_judged_on_the_target(configure: Configure) -> None:
    config = configure(f"retrain.arms=[mixmin, natural, {CURRENT}]", "retrain.replicates=2")
    rows = {name: Artifact("rows", id * 64, {}, {}) for name, id in (("one", "a"), ("two", "b"))}

    def model(**by_id: float) -> Artifact:
        curves = {id * 64: HeldOutCurve(4, 99, [(10, loss + 1), (20, loss)]) for id, loss in by_id.items()}
        return Artifact("model", "c" * 64, {}, ModelMeta(1, 20, 1.0, [(20, 1.0)], held_out_curves=curves).to_meta())

    plain = Artifact("model", "d" * 64, {}, ModelMeta(1, 20, 1.0, [(20, 1.0)]).to_meta())
    models = {
        "mixmin-one": model(a=2.0, b=9.0),
        "mixmin-one.seed5": model(a=3.0),
        "mixmin-two": model(b=1.0),
        "mixmin-two.seed5": model(b=2.0),
        "natural": model(a=4.0),
        "natural.seed5": model(a=5.0),
        "current": model(a=4.0, b=4.0),
        "current.seed5": plain,  # of an earlier version
    }
    assert held_out_curves(config, rows, MIXTURES, models) == {
        "one": {
            "one": {
                "mixmin": HeldOutCurve(4, 99, [(10, 3.5), (20, 2.5)]),
                "natural": HeldOutCurve(4, 99, [(10, 5.5), (20, 4.5)]),
            }
        },
        "two": {"two": {"mixmin": HeldOutCurve(4, 99, [(10, 2.5), (20, 1.5)])}},
    }
