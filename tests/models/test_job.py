"""The job that trains and publishes a model, without Ray: ids, recorded facts, no model made twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixray.config.mixture import DoReMiConfig
from mixray.config.schema import RetrainConfig
from mixray.config.training import ProxyConfig
from mixray.data import MixtureStream, TextInputs, open_rows
from mixray.data.target_rows import SCHEMA
from mixray.data.text.windows import stored_windows
from mixray.models import (
    TrainingData,
    TrainingJob,
    arm_jobs,
    build_model,
    doremi_job,
    load_model,
    new_model,
    proxy_jobs,
    swarm_jobs,
    train_missing,
)
from mixray.models.sample_losses import HeldOutSample
from mixray.store import Artifact, Artifacts, ModelMeta, Storage
from mixray.store.tables import write_rows
from mixray.training import Progress

MODEL = {"architecture": "gpt_neox", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WINDOW, VOCABULARY = 16, 64
COMMON = ("parameters", "tokens", "seconds", "curve", "times", "tokens_per_second", "learning_rate", "gradient_norm")
"""What every model records of its training."""
CPU = torch.device("cpu")
ERM = "372d39d4dfe954fe790469e240e9e8cbbbd6ec74f3381ef966de2811f44619c8"
"""The id of the arm of ``retrain_config()`` on a fourth of ``low``, made when there was no other objective."""


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(Storage(str(tmp_path)), "test")


@pytest.fixture
def data(artifacts: Artifacts) -> TrainingData:
    """Two sources of 200 windows of random tokens."""
    sources = {}
    for name, low in (("low", 0), ("high", 30)):
        draft = artifacts.draft("tokens", (name.encode().hex() + "0" * 64)[:64])
        windows = np.random.default_rng(0).integers(low, low + 20, (200, WINDOW)).astype("<u2")
        meta = {"window": WINDOW, "dtype": "<u2", "windows": 200, "tokens": windows.size, "shards": {"000000.bin": 200}}
        sources[name] = draft.publish({"000000.bin": draft.write("000000.bin", stored_windows(windows))}, meta)
    return TrainingData(sources, TextInputs(WINDOW, VOCABULARY, 0), 0)


def proxy_config(**changes: Any) -> ProxyConfig:
    return ProxyConfig.model_validate({"model": MODEL, "tokens": 1, "batch": 4} | changes)


def retrain_config(**changes: Any) -> RetrainConfig:
    return RetrainConfig.model_validate({"model": MODEL, "tokens": 20 * 4 * WINDOW, "batch": 4} | changes)


def trained(artifacts: Artifacts, jobs: Mapping[str, TrainingJob]) -> tuple[dict[str, Artifact], list[str]]:
    """The models of the jobs, and the names of those jobs that trained one."""
    names: list[str] = []

    def train(missing: list[TrainingJob]) -> None:
        for job in missing:
            names.append(job.name)
            job.run(CPU, lambda _: None)
            job.delete_checkpoints()

    return train_missing(artifacts, jobs, train), names


def test_all_workers_load_the_commit_of_a_pretrained_model_that_the_driver_saw(
    artifacts: Artifacts, data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = {"old": "0123456789" * 4, "new": "abcdef0123" * 4}
    hub = tmp_path / "hub" / "models--some--model"
    for seed, commit in enumerate(commits.values()):
        model = build_model(proxy_config().model, vocab_size=VOCABULARY, window=WINDOW, seed=seed)
        model.save_pretrained(hub / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (hub / "refs").mkdir()
    config = {"model": {"pretrained": "some/model"}}

    def jobs(name: str) -> list[TrainingJob]:
        (hub / "refs" / "main").write_text(commits[name])
        proxies = proxy_jobs(artifacts, proxy_config(**config), data, tokens=80)
        return [
            proxies["low"],
            arm_jobs(artifacts, retrain_config(**config), data, {"arm": {"low": 1, "high": 0}}, {})["arm"],
        ]

    old, new = jobs("old"), jobs("new")
    assert not {job.draft.id for job in old} & {job.draft.id for job in new}
    for job in old:  # the branch has moved on since
        network = new_model(job.config, data.inputs, seed=0, device=CPU).network
        seen = build_model(proxy_config().model, vocab_size=VOCABULARY, window=WINDOW, seed=0)
        assert all(torch.equal(one, other) for one, other in zip(network.parameters(), seen.parameters(), strict=True))


def test_a_proxy_is_published_with_its_facts_and_its_checkpoints_are_gone(
    artifacts: Artifacts, data: TrainingData
) -> None:
    records: list[Progress] = []
    job = proxy_jobs(artifacts, proxy_config(), data, tokens=20 * 4 * WINDOW)["low"]
    job.run(CPU, records.append)
    checkpoints = Path(artifacts.storage.root, "checkpoints/proxy", job.draft.id)
    assert list(checkpoints.glob("step-*.pt"))
    job.delete_checkpoints()
    assert not checkpoints.exists()
    proxy = artifacts.get("proxy", job.draft.id)
    assert set(proxy.meta) == {"source", *COMMON}
    meta = ModelMeta.from_artifact(proxy)
    assert (meta.source, meta.tokens) == ("low", 20 * 4 * WINDOW)
    assert [tuple(point) for point in meta.curve] == [(record.tokens, record.loss) for record in records]
    folder = Path(artifacts.storage.root, next(iter(proxy.files.values())).path).parent
    assert load_model(job.config, folder, device=CPU).parameter_count == meta.parameters


def test_states_that_a_killed_run_left_of_a_finished_model_are_deleted(
    artifacts: Artifacts, data: TrainingData
) -> None:
    jobs = proxy_jobs(artifacts, proxy_config(), data, tokens=2 * 4 * WINDOW)
    jobs["low"].run(CPU, lambda _: None)  # killed before it deletes them
    other = artifacts.storage.write("checkpoints/proxy/of-another-run/step", b"a state")
    trained(artifacts, jobs)
    assert list(artifacts.storage.sizes("checkpoints")) == [other.path]


def test_a_model_of_a_swarm_is_trained_like_a_proxy_on_a_mixture(artifacts: Artifacts, data: TrainingData) -> None:
    mixtures = {"half": {"low": 0.5, "high": 0.5}, "twin": {"high": 0.5, "low": 0.5}, "one": {"low": 1.0, "high": 0.0}}
    models, names = trained(artifacts, swarm_jobs(artifacts, proxy_config(), data, mixtures, tokens=20 * 4 * WINDOW))
    assert names == ["twin", "one"]
    assert models["half"] == models["twin"]
    meta = ModelMeta.from_artifact(models["half"])
    assert set(models["half"].meta) == {"source_shares", "group_losses", *COMMON}
    assert (meta.source_shares, meta.tokens) == (mixtures["half"], 20 * 4 * WINDOW)
    later = TrainingData(data.sources, data.inputs, 1)
    other = swarm_jobs(artifacts, proxy_config(), later, mixtures, tokens=20 * 4 * WINDOW)
    assert not {job.draft.id for job in other.values()} & {model.id for model in models.values()}


def test_a_model_that_exists_is_not_trained_again_and_equal_ones_are_trained_once(
    artifacts: Artifacts, data: TrainingData
) -> None:
    twins = TrainingData({"one": data.sources["low"], "other": data.sources["low"]}, data.inputs, data.seed)
    proxies, names = trained(artifacts, proxy_jobs(artifacts, proxy_config(), twins, tokens=2 * 4 * WINDOW))
    assert proxies["one"] == proxies["other"]
    assert len(names) == 1
    elsewhere = proxy_config(resources={"cpus": 0.5}, max_restarts=0, checkpoints=9)
    both = TrainingData(data.sources | {"again": data.sources["low"]}, data.inputs, data.seed)
    again, names = trained(artifacts, proxy_jobs(artifacts, elsewhere, both, tokens=2 * 4 * WINDOW))
    assert (again["again"], names) == (proxies["one"], ["high"])


def test_ids_know_what_of_the_resources_decides_bits(artifacts: Artifacts, data: TrainingData) -> None:
    """Two threads add in another order than one. An arm's weights are known up to rounding, on whatever workers."""

    def ids(cpus: float, gpus: float) -> tuple[str, str]:
        resources = {"cpus": cpus, "gpus": gpus}
        proxies = proxy_jobs(artifacts, proxy_config(resources=resources), data, tokens=80)
        arms = arm_jobs(
            artifacts, retrain_config(resources_per_worker=resources), data, {"arm": {"low": 1.0, "high": 0.0}}, {}
        )
        return proxies["low"].draft.id, arms["arm"].draft.id

    proxy, arm = ids(1, 0)
    assert ids(0.5, 0) == ids(1.5, 0) == (proxy, arm)
    assert ids(2, 0)[0] != proxy
    assert ids(2, 0)[1] == arm
    assert ids(1, 1) == ids(4, 0.5)
    assert not {proxy, arm} & set(ids(1, 1))


def test_an_arm_records_its_shares_and_how_a_robust_objective_weighed_its_sources(
    artifacts: Artifacts, data: TrainingData
) -> None:
    shares = {"mixed": {"low": 0.25, "high": 0.75}}
    config = retrain_config(tokens=4 * 4 * WINDOW)
    plain, _ = trained(artifacts, arm_jobs(artifacts, config, data, shares, {}))
    assert set(plain["mixed"].meta) == {"source_shares", "workers", "group_losses", "source_losses", *COMMON}
    curves = ModelMeta.from_artifact(plain["mixed"]).group_losses or {}
    assert set(curves) == {"low", "high"}
    total = ModelMeta.from_artifact(plain["mixed"]).curve
    for (_, low), (_, high), (_, loss) in zip(curves["low"], curves["high"], total, strict=True):
        assert low <= loss <= high or high <= loss <= low
    robust = retrain_config(tokens=4 * 4 * WINDOW, objective={"kind": "group_dro", "step_size": 0.2})
    models, _ = trained(artifacts, arm_jobs(artifacts, robust, data, shares, {}))
    meta = ModelMeta.from_artifact(models["mixed"])
    assert meta.source_shares == shares["mixed"]
    assert sum(meta.final_group_weights.values()) == pytest.approx(1.0)
    assert set(meta.group_losses or {}) == set(meta.final_group_weights) == {"low", "high"}


def test_an_arms_identity_has_the_objective_in_it_unless_it_is_erm(artifacts: Artifacts, data: TrainingData) -> None:
    facts = {"parameters": 1, "tokens": 1, "seconds": 1.0, "curve": [[1, 2.0]]}
    proxies = {name: artifacts.draft("proxy", id * 64).publish({}, facts) for name, id in (("low", "a"), ("high", "b"))}

    def identity(references: Mapping[str, Artifact] | None = None, **objective: Any) -> str:
        config = retrain_config(**({"objective": objective} if objective else {}))
        jobs = arm_jobs(artifacts, config, data, {"mixed": {"high": 0.75, "low": 0.25}}, references or {})
        return jobs["mixed"].draft.id

    assert identity() == identity(kind="erm") == identity(proxies) == ERM
    others = [
        identity(kind="group_dro"),
        identity(kind="also"),
        identity(kind="group_dro", step_size=0.1),
        identity(kind="group_dro", excess="proxy", references=proxies),
        identity(kind="group_dro", excess="proxy", references=proxies | {"low": proxies["high"]}),
    ]
    assert len({ERM, *others}) == 6


def test_what_judges_groups_of_completions_by_tokens_has_an_identity_of_its_own(
    artifacts: Artifacts, data: TrainingData
) -> None:
    """Models of windows keep theirs, and so do those that know no groups."""
    marked = {name: replace(rows, meta=rows.meta | {"trained_tokens": 9}) for name, rows in data.sources.items()}
    completions, shares = replace(data, sources=marked), {"arm": {"low": 0.5, "high": 0.5}}

    def ids(data: TrainingData) -> list[str]:
        configs = [retrain_config(), retrain_config(objective={"kind": "group_dro"})]
        arms = [arm_jobs(artifacts, config, data, shares, {})["arm"] for config in configs]
        reference = data.sources["low"]
        doremi = doremi_job(artifacts, proxy_config(), data, DoReMiConfig(), reference, tokens=4 * WINDOW)
        return [job.draft.id for job in (*arms, doremi)]

    assert [one == other for one, other in zip(ids(data), ids(completions), strict=True)] == [True, False, False]


def test_an_arms_identity_does_not_depend_on_the_other_arms(artifacts: Artifacts, data: TrainingData) -> None:
    changed = retrain_config(arms=["natural", {"name": "own", "shares": {"low": 1, "high": 0}}], replicates=3)
    jobs = arm_jobs(artifacts, changed, data, {"mixed": {"high": 0.75, "low": 0.25}}, {})
    assert jobs["mixed"].draft.id == ERM


@pytest.mark.parametrize(("records", "expected"), [(1, 0.0), (9, 8.0), (20, 18.5), (100, 94.5)])
def test_the_final_loss_is_that_of_the_end_of_training(records: int, expected: float) -> None:
    assert ModelMeta(1, 1, 1.0, [(10 * i, float(i)) for i in range(records)]).final_loss == expected


def test_an_arm_is_judged_on_rows_of_every_source_that_it_did_not_read(
    artifacts: Artifacts, data: TrainingData
) -> None:
    low = open_rows(artifacts.storage, data.sources["low"])
    steps = (len(low) - 10) // 4
    jobs = arm_jobs(
        artifacts, retrain_config(tokens=steps * 4 * WINDOW), data, {"alone": {"low": 1.0, "high": 0.0}}, {}
    )
    models, _ = trained(artifacts, jobs)
    measured = ModelMeta.from_artifact(models["alone"]).source_losses or {}
    assert (measured["low"].share, measured["high"].share) == (1.0, 0.0)
    unread = len(low) - 4 * steps
    assert (measured["low"].rows, measured["high"].rows) == (unread, 64)
    stream = MixtureStream({"low": low}, {"low": 1.0}, data.seed)
    _, read = stream.locate(0, 4 * steps)
    rows = np.setdiff1d(np.arange(len(low)), read)
    assert len(rows) == unread
    folder = Path(artifacts.storage.root, next(iter(models["alone"].files.values())).path).parent
    model = load_model(jobs["alone"].config, folder, device=CPU)
    losses = model.training_losses(low.read(rows))
    assert measured["low"].loss == pytest.approx(losses.mean(), rel=1e-5)
    assert measured["low"].reach == pytest.approx(1.959964 * losses.std(ddof=1) / unread**0.5, rel=1e-4)


def test_a_source_that_was_read_whole_has_no_loss(artifacts: Artifacts, data: TrainingData) -> None:
    rows = len(open_rows(artifacts.storage, data.sources["low"]))
    config = retrain_config(tokens=(rows // 4 + 1) * 4 * WINDOW)
    models, _ = trained(artifacts, arm_jobs(artifacts, config, data, {"alone": {"low": 1.0, "high": 0.0}}, {}))
    measured = ModelMeta.from_artifact(models["alone"]).source_losses or {}
    assert (measured["low"].rows, measured["low"].loss, measured["low"].reach) == (0, None, None)


@pytest.fixture
def target(artifacts: Artifacts) -> Artifact:
    """300 rows of 12 random tokens in two files, of whose first 3 tokens none is scored."""
    draft = artifacts.draft("rows", "e" * 64)
    draw, files = np.random.default_rng(1), {}
    for number in range(2):
        rows = [(bytes([number, row]) * 8, 0, draw.integers(0, 50, 12).tolist(), 8) for row in range(150)]
        files[f"held_out-{number:05d}.parquet"] = write_rows(draft, f"{number}.parquet", SCHEMA, rows)
    part = {"files": [*files], "rows": 300, "documents": 300, "tokens": 2400, "context_tokens": 900}
    return draft.publish(files, {"window": WINDOW, "held_out": part})


def test_every_arm_is_judged_on_the_same_held_out_rows_on_the_way(
    artifacts: Artifacts, data: TrainingData, target: Artifact
) -> None:
    config = retrain_config(tokens=200 * 4 * WINDOW)
    arms = {"low": {"low": 1.0, "high": 0.0}, "mixed": {"low": 0.5, "high": 0.5}}
    jobs = arm_jobs(artifacts, config, data, arms, {}, {"text": target})
    models, _ = trained(artifacts, jobs)
    for arm, model in models.items():
        meta = ModelMeta.from_artifact(model)
        (measured,) = (meta.held_out_curves or {}).values()
        assert set(meta.held_out_curves or {}) == {target.id}
        # 5 % of the operations of 12,800 training tokens, a third of them a forward pass's, over ten points.
        assert measured.rows == int(0.05 * 3 * 12_800 / 10 / 11)
        assert measured.tokens == 8 * measured.rows
        assert [tokens for tokens, _ in measured.curve] == [1280 * i for i in range(1, 11)]
        folder = Path(artifacts.storage.root, next(iter(model.files.values())).path).parent
        sample = HeldOutSample.read(artifacts.storage, target, ("tokens", "count"), 192)
        assert sample is not None
        assert len(sample.rows) == measured.rows
        stored = load_model(jobs[arm].config, folder, device=CPU)
        assert measured.curve[-1][1] == pytest.approx(sample.loss(stored), rel=1e-6)


def test_judging_an_arm_changes_neither_its_identity_nor_its_bits(
    artifacts: Artifacts, data: TrainingData, target: Artifact
) -> None:
    config, arms = retrain_config(tokens=40 * 4 * WINDOW), {"mixed": {"low": 0.5, "high": 0.5}}
    judged, _ = trained(artifacts, arm_jobs(artifacts, config, data, arms, {}, {"text": target}))
    found, names = trained(artifacts, arm_jobs(artifacts, config, data, arms, {}, {"another": target}))
    assert (found, names) == (judged, []), "an arm is found whatever it was judged on"
    artifacts.storage.delete_folder(f"artifacts/model/{judged['mixed'].id}")
    plain, names = trained(artifacts, arm_jobs(artifacts, config, data, arms, {}))
    assert names == ["mixed"]
    assert "held_out_curves" not in plain["mixed"].meta
    sha256s = [{name: file.sha256 for name, file in model["mixed"].files.items()} for model in (judged, plain)]
    assert sha256s[0] == sha256s[1]


def test_a_sample_of_less_than_two_rows_is_none(artifacts: Artifacts, target: Artifact) -> None:
    assert HeldOutSample.read(artifacts.storage, target, ("tokens", "count"), 21) is None
    whole = HeldOutSample.read(artifacts.storage, target, ("tokens", "count"), 10**6)
    assert whole is not None
    assert (len(whole.rows), whole.tokens) == (300, 2400)


def test_doremi_raises_the_source_on_which_its_proxy_lacks_most_of_the_reference(
    artifacts: Artifacts, data: TrainingData
) -> None:
    """The reference is trained nearly on one source alone. On the other the proxy, which sees both, is the better."""
    config, weights = proxy_config(optimizer={"learning_rate": 0.01}), {}
    ids = set()
    for favoured, other in (("low", "high"), ("high", "low")):
        shares = {"reference": {favoured: 0.95, other: 0.05}}
        jobs = swarm_jobs(artifacts, config, data, shares, tokens=100 * 4 * WINDOW)
        reference = trained(artifacts, jobs)[0]["reference"]
        job = doremi_job(artifacts, config, data, DoReMiConfig(), reference, tokens=100 * 4 * WINDOW)
        again = doremi_job(artifacts, config, data, DoReMiConfig(step_size=0.5), reference, tokens=100 * 4 * WINDOW)
        ids |= {job.draft.id, again.draft.id}
        meta = ModelMeta.from_artifact(trained(artifacts, {"proxy": job})[0]["proxy"])
        assert meta.mean_group_weights is not None
        assert sum(meta.mean_group_weights.values()) == pytest.approx(1)
        assert list(meta.group_weights or {}) == ["high", "low"]
        weights[favoured] = meta.mean_group_weights[favoured]
    assert weights["low"] > 1 - weights["high"] + 0.1, "low's weight where the reference knows low, and where high"
    assert len(ids) == 4, "the reference and the settings are part of what the proxy is"
