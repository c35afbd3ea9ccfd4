"""Workers that die, fail or are many: nothing finished is lost, and the answer has the same bits."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from mixray.cluster import Session
from mixray.cluster.mapping import run_tasks
from mixray.cluster.proxies import train_proxies
from mixray.cluster.retraining import arm_id, reference_loss, retrain
from mixray.cluster.watching import Watcher
from mixray.config.schema import RetrainConfig
from mixray.config.training import ProxyConfig, Resources
from mixray.data import TextInputs
from mixray.errors import InputError, StageError
from mixray.store import Artifact, Artifacts, Storage

MODEL = {"architecture": "gpt_neox", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WINDOW, VOCABULARY = 16, 64
TRAINING: dict[str, Any] = {"inputs": TextInputs(WINDOW, VOCABULARY, 0), "seed": 0}


def tokens_artifact(artifacts: Artifacts, name: str, low: int, high: int) -> Artifact:
    """A source whose windows are random tokens from [low, high)."""
    draft = artifacts.draft("tokens", (name.encode().hex() + "0" * 64)[:64])
    windows = np.random.default_rng(0).integers(low, high, (200, WINDOW)).astype("<u2")
    record = draft.write("000000.bin", windows.tobytes())
    meta = {"window": WINDOW, "dtype": "<u2", "windows": 200, "tokens": windows.size, "shards": {"000000.bin": 200}}
    return draft.publish({"000000.bin": record}, meta)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(Storage(str(tmp_path)), "test")


@pytest.fixture
def sources(artifacts: Artifacts) -> dict[str, Artifact]:
    return {name: tokens_artifact(artifacts, name, low, low + 20) for name, low in (("low", 0), ("high", 30))}


def proxy_config(**changes: Any) -> ProxyConfig:
    return ProxyConfig(model=MODEL, tokens=1, batch=4, checkpoints=20, **changes)


def weights_of(artifact: Artifact) -> str:
    return artifact.files["model.safetensors"].sha256


class Killer:
    """Kills the process that posts progress, once, when a key is past a share of its work."""

    def __init__(self, key: str, share: float) -> None:
        self._key, self._share, self.killed = key, share, 0

    def __call__(self, key: str, record: Any) -> None:
        if key == self._key and not self.killed and record.step >= self._share * record.steps:
            for pid in workers_named("ProxyTrainer"):
                os.kill(pid, signal.SIGKILL)
                self.killed += 1


def workers_named(name: str) -> Iterator[int]:
    """Processes of this process's cluster that Ray has titled after what they run."""
    parents, titles = dict[int, int](), dict[int, str]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    for pid, title in titles.items():
        if title.startswith(f"ray::{name}"):
            above = pid
            while above in parents and above != os.getpid():
                above = parents[above]
            if above == os.getpid():
                yield pid


def test_a_proxy_whose_actor_is_killed_ends_with_the_same_bits(
    ray_session: Session, artifacts: Artifacts, sources: dict[str, Artifact], tmp_path: Path
) -> None:
    one = {"low": sources["low"]}
    tokens = 400 * 4 * WINDOW
    killer = Killer("low", 0.3)
    survived = train_proxies(ray_session, artifacts, proxy_config(), one, tokens=tokens, news=killer, **TRAINING)
    assert killer.killed == 1
    elsewhere = Artifacts(Storage(str(tmp_path / "elsewhere")), "test")
    again = {"low": tokens_artifact(elsewhere, "low", 0, 20)}
    undisturbed = train_proxies(
        ray_session, elsewhere, proxy_config(), again, tokens=tokens, news=lambda *_: None, **TRAINING
    )
    assert weights_of(survived["low"]) == weights_of(undisturbed["low"])


def test_one_failing_source_names_itself_and_keeps_the_others(
    ray_session: Session, artifacts: Artifacts, sources: dict[str, Artifact]
) -> None:
    broken = tokens_artifact(artifacts, "broken", VOCABULARY, VOCABULARY + 5)  # ids that the model does not know
    config, seen = proxy_config(), set()
    with pytest.raises(StageError, match="the proxies of broken failed") as caught:
        train_proxies(
            ray_session,
            artifacts,
            config,
            {"broken": broken, **sources},
            tokens=20 * 4 * WINDOW,
            news=lambda key, _: seen.add(key),
            **TRAINING,
        )
    assert "the proxies of low, high are kept" in str(caught.value) or "the proxies of high, low are kept" in str(
        caught.value
    )
    assert {"low", "high"} <= seen


def test_proxies_that_exist_are_not_trained_again(
    ray_session: Session, artifacts: Artifacts, sources: dict[str, Artifact]
) -> None:
    settings: dict[str, Any] = {"tokens": 20 * 4 * WINDOW, **TRAINING}
    first = train_proxies(ray_session, artifacts, proxy_config(), sources, news=lambda *_: None, **settings)

    def refuse(key: str, _: Any) -> None:
        raise AssertionError(f"{key} was trained again")

    other_resources = proxy_config(resources=Resources(cpus=2), max_restarts=0)
    again = train_proxies(ray_session, artifacts, other_resources, sources, news=refuse, **settings)
    assert {name: artifact.id for name, artifact in again.items()} == {name: a.id for name, a in first.items()}


def test_sources_of_equal_content_share_one_proxy(
    ray_session: Session, artifacts: Artifacts, sources: dict[str, Artifact]
) -> None:
    twins = {"one": sources["low"], "other": sources["low"]}
    began: set[str] = set()
    proxies = train_proxies(
        ray_session,
        artifacts,
        proxy_config(),
        twins,
        tokens=20 * 4 * WINDOW,
        news=lambda key, _: began.add(key),
        **TRAINING,
    )
    assert proxies["one"] == proxies["other"]
    assert len(began) == 1


def test_news_may_get_lost_but_the_run_goes_on(ray_session: Session) -> None:
    ray_session.connect()
    told: list[tuple[str, Any]] = []
    watcher = Watcher(lambda *news: told.append(news))
    ray.get(watcher.board.post.remote("a", 1))
    ray.kill(watcher.board, no_restart=False)
    deadline = time.monotonic() + 60
    while ("b", 2) not in told and time.monotonic() < deadline:
        watcher.board.post.remote("b", 2)
        watcher.pass_on()
        time.sleep(0.2)
    assert ("b", 2) in told


def retrain_config(**changes: Any) -> RetrainConfig:
    return RetrainConfig(model=MODEL, tokens=1280, batch=4, **changes)


def arm(session: Session, artifacts: Artifacts, sources: dict[str, Artifact], config: RetrainConfig) -> Artifact:
    shares = {"mixed": {"low": 0.25, "high": 0.75}}
    return retrain(session, artifacts, config, shares, sources, news=lambda *_: None, **TRAINING)["mixed"]


def test_two_workers_learn_what_one_learns(
    ray_session: Session, artifacts: Artifacts, sources: dict[str, Artifact], tmp_path: Path
) -> None:
    alone = arm(ray_session, artifacts, sources, retrain_config())
    elsewhere = Artifacts(Storage(str(tmp_path / "elsewhere")), "test")
    again = {name: tokens_artifact(elsewhere, name, low, low + 20) for name, low in (("low", 0), ("high", 30))}
    together = arm(ray_session, elsewhere, again, retrain_config(workers=2))
    assert together.meta["workers"] == 2
    assert together.id == alone.id
    ours, theirs = (np.array(artifact.meta["curve"])[:, 1] for artifact in (alone, together))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_an_elastic_range_and_a_worker_that_dies(
    ray_session: Session, artifacts: Artifacts, sources: dict[str, Artifact]
) -> None:
    config = RetrainConfig(model=MODEL, tokens=800 * 4 * WINDOW, batch=4, checkpoints=50, workers=(1, 2))
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + 120
        while not killed and time.monotonic() < deadline:
            time.sleep(0.2)
            if list(artifacts.storage.root and Path(artifacts.storage.root).glob("checkpoints/model/*/*/latest.json")):
                killed.extend(list(workers_named("RayTrainWorker"))[:1])
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill_one)
    thread.start()
    model = arm(ray_session, artifacts, sources, config)
    thread.join()
    assert killed, "no worker was there to kill"
    assert model.meta["tokens"] == 800 * 4 * WINDOW
    steps = [tokens for tokens, _ in model.meta["curve"]]
    assert steps == sorted(set(steps))
    assert not Path(artifacts.storage.root, "checkpoints/model", model.id, "test").exists()


ERM = "372d39d4dfe954fe790469e240e9e8cbbbd6ec74f3381ef966de2811f44619c8"
"""The identity of ``retrain_config()`` on a fourth of ``low``, made when there was no other objective."""


def test_a_robust_arm_tells_how_it_weighed_its_sources(
    ray_session: Session, artifacts: Artifacts, sources: dict[str, Artifact]
) -> None:
    """``low`` cannot be learnt, and ``one``, a single token over and over, is learnt at once."""
    draft = artifacts.draft("tokens", "0" * 63 + "1")
    record = draft.write("000000.bin", np.full((200, WINDOW), 7, dtype="<u2").tobytes())
    meta = {"window": WINDOW, "dtype": "<u2", "windows": 200, "tokens": 3200, "shards": {"000000.bin": 200}}
    pools = {"one": draft.publish({"000000.bin": record}, meta), "low": sources["low"], "unused": sources["high"]}
    proxies = {
        name: artifacts.draft("proxy", id * 64).publish({}, {"curve": [[tokens, loss] for tokens in range(20)]})
        for name, id, loss in (("one", "a", 3.0), ("low", "b", 2.5), ("unused", "c", 1.0))
    }
    objective = {"kind": "group_dro", "step_size": 0.2, "excess": "proxy"}
    config = RetrainConfig.model_validate(
        {"model": MODEL, "tokens": 60 * 4 * WINDOW, "batch": 4, "workers": 2, "objective": objective}
    )
    told: list[Any] = []
    model = retrain(
        ray_session,
        artifacts,
        config,
        {"mixed": {"one": 0.875, "low": 0.125, "unused": 0.0}},
        pools,
        proxies=proxies,
        news=lambda _, record: told.append(record),
        **TRAINING,
    )["mixed"]
    weights, losses = model.meta["group_weights"], model.meta["group_losses"]
    assert list(weights) == sorted(losses, key="low one".index) == ["low", "one"]
    assert [sum(values) for values in zip(*([w for _, w in weights[name]] for name in weights), strict=True)] == (
        pytest.approx([1.0] * 60)
    )
    assert weights["low"][-1][1] > 0.9
    assert losses["low"][-1][1] > losses["one"][-1][1]
    assert model.meta["workers"] == 2
    assert told[-1].group_weights == {name: values[-1][1] for name, values in weights.items()}


def test_an_arms_identity_has_the_objective_in_it_unless_it_is_erm(
    artifacts: Artifacts, sources: dict[str, Artifact]
) -> None:
    shares = {"high": 0.75, "low": 0.25}
    proxies = {name: artifacts.draft("proxy", id * 64).publish({}, {}) for name, id in (("low", "a"), ("high", "b"))}

    def identity(references: dict[str, Artifact] | None = None, **objective: Any) -> str:
        config = retrain_config(**({"objective": objective} if objective else {}))
        return arm_id(config, shares, sources, references or {}, steps=20, seed=0)

    assert identity() == identity(kind="erm") == ERM
    others = [
        identity(kind="group_dro"),
        identity(kind="also"),
        identity(kind="group_dro", step_size=0.1),
        identity(kind="group_dro", excess="proxy", references=proxies),
        identity(kind="group_dro", excess="proxy", references=proxies | {"low": proxies["high"]}),
    ]
    assert len({ERM, *others}) == 6


@pytest.mark.parametrize(("records", "expected"), [(1, 0.0), (9, 8.0), (20, 18.5), (100, 94.5)])
def test_a_proxys_loss_is_that_of_the_end_of_its_training(artifacts: Artifacts, records: int, expected: float) -> None:
    proxy = artifacts.draft("proxy", "a" * 64).publish({}, {"curve": [[10 * i, float(i)] for i in range(records)]})
    assert reference_loss(proxy) == expected


def square(number: int) -> int:
    if number < 0:
        raise InputError("a negative number", got=number)
    return number * number


def test_tasks_come_back_in_order_and_errors_as_themselves(ray_session: Session) -> None:
    told: list[tuple[str, int, int]] = []
    numbers = list(range(9))
    results = run_tasks(ray_session, square, numbers, "square", progress=lambda *news: told.append(news))
    assert list(results) == [number * number for number in numbers]
    assert told == [("square", done, 9) for done in range(1, 10)]
    with pytest.raises(InputError, match="a negative number") as caught:
        list(run_tasks(ray_session, square, [1, -1], "square", progress=lambda *_: None))
    assert caught.value.got == -1


def test_what_does_not_fit_is_refused(ray_session: Session) -> None:
    assert ray_session.fits(Resources(cpus=0.5), where="proxy.resources") == 8
    with pytest.raises(InputError, match=r"retrain\.workers") as caught:
        ray_session.fits(Resources(cpus=2), where="retrain.workers", count=3)
    assert "3 x (2 CPU)" in str(caught.value)
    assert "4 CPU" in str(caught.value)
