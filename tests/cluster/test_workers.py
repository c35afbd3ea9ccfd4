"""Workers that die, fail or are many: nothing finished is lost, and the answer has the same bits."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch

from mixray.cluster import Session
from mixray.cluster.mapping import run_tasks
from mixray.cluster.proxies import ProxyTrainer, train_proxies, train_swarm
from mixray.cluster.retraining import delete_earlier, retrain
from mixray.cluster.watching import News, Watcher
from mixray.config.schema import RetrainConfig
from mixray.config.training import ProxyConfig, Resources
from mixray.data import TextInputs
from mixray.data.text.windows import stored_windows
from mixray.errors import InputError, StageError
from mixray.models import TrainingData, arm_jobs, proxy_jobs, swarm_jobs
from mixray.store import Artifact, Artifacts, FileRecord, Storage, retrying
from mixray.store.index import now_ms
from mixray.training import use_resources

MODEL = {"architecture": "gpt_neox", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WINDOW, VOCABULARY = 16, 64


def data_of(sources: Mapping[str, Artifact]) -> TrainingData:
    return TrainingData(sources, TextInputs(WINDOW, VOCABULARY, 0), 0)


def proxies_of(
    session: Session,
    artifacts: Artifacts,
    sources: Mapping[str, Artifact],
    news: News,
    *,
    steps: int = 20,
    config: ProxyConfig | None = None,
) -> dict[str, Artifact]:
    """Train a proxy per source on some steps."""
    config = config or proxy_config()
    jobs = proxy_jobs(artifacts, config, data_of(sources), tokens=steps * 4 * WINDOW)
    return train_proxies(session, artifacts, config, jobs, news)


def tokens_artifact(artifacts: Artifacts, name: str, low: int, high: int) -> Artifact:
    """A source whose windows are random tokens from [low, high)."""
    draft = artifacts.draft("tokens", (name.encode().hex() + "0" * 64)[:64])
    windows = np.random.default_rng(0).integers(low, high, (200, WINDOW)).astype("<u2")
    record = draft.write("000000.bin", stored_windows(windows))
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
    killer = Killer("low", 0.3)
    survived = proxies_of(ray_session, artifacts, one, killer, steps=400)
    assert killer.killed == 1
    elsewhere = Artifacts(Storage(str(tmp_path / "elsewhere")), "test")
    again = {"low": tokens_artifact(elsewhere, "low", 0, 20)}
    undisturbed = proxies_of(ray_session, elsewhere, again, lambda *_: None, steps=400)
    assert weights_of(survived["low"]) == weights_of(undisturbed["low"])


def test_an_interrupted_run_leaves_nobody_training(
    ray_session: Session, artifacts: Artifacts, sources: dict[str, Artifact]
) -> None:
    def interrupt(_: str, __: Any) -> None:
        assert list(workers_named("ProxyTrainer"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        proxies_of(ray_session, artifacts, sources, interrupt, steps=10**6)
    deadline = time.monotonic() + 60
    while list(workers_named("ProxyTrainer")):
        assert time.monotonic() < deadline, "actors go on training"
        time.sleep(0.1)


def test_one_failing_source_names_itself_and_keeps_the_others(
    ray_session: Session, artifacts: Artifacts, sources: dict[str, Artifact]
) -> None:
    broken = tokens_artifact(artifacts, "broken", VOCABULARY, VOCABULARY + 5)  # ids that the model does not know
    posted: set[str] = set()
    with pytest.raises(StageError, match="the proxies of broken failed") as caught:
        proxies_of(ray_session, artifacts, {"broken": broken, **sources}, lambda key, _: posted.add(key))
    assert "the proxies of low, high are kept" in str(caught.value) or "the proxies of high, low are kept" in str(
        caught.value
    )
    assert {"low", "high"} <= posted


def test_proxies_that_exist_are_not_trained_again(
    ray_session: Session, artifacts: Artifacts, sources: dict[str, Artifact]
) -> None:
    first = proxies_of(ray_session, artifacts, sources, lambda *_: None)

    def refuse(key: str, _: Any) -> None:
        raise AssertionError(f"{key} was trained again")

    other_resources = proxy_config(resources=Resources(cpus=0.5), max_restarts=0)
    again = proxies_of(ray_session, artifacts, sources, refuse, config=other_resources)
    assert {name: artifact.id for name, artifact in again.items()} == {name: a.id for name, a in first.items()}


def test_the_models_of_a_swarm_are_trained_one_after_another_and_once(
    ray_session: Session, artifacts: Artifacts, sources: dict[str, Artifact]
) -> None:
    mixtures = {f"mixture{number}": {"low": number / 4, "high": 1 - number / 4} for number in range(4)}
    done: list[str] = []

    def models() -> dict[str, Artifact]:
        jobs = swarm_jobs(artifacts, proxy_config(), data_of(sources), mixtures, tokens=3 * 4 * WINDOW)
        return train_swarm(ray_session, artifacts, proxy_config(), jobs, done.append)

    first = models()
    assert done == list(first) == list(mixtures)
    assert len({weights_of(model) for model in first.values()}) == 4
    assert models() == first
    assert done == list(mixtures)


def test_a_proxy_goes_on_when_the_storage_answers_again(
    artifacts: Artifacts, sources: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = proxy_config()
    job = proxy_jobs(artifacts, config, data_of(sources), tokens=20 * 4 * WINDOW)["low"]
    write, steps = Storage.write, list[int]()

    def failing_write(storage: Storage, path: str, data: bytes) -> FileRecord:
        if path.startswith("checkpoints/") and len(steps) in (5, 6):
            raise OSError("AWS Error SLOW_DOWN: please reduce your request rate")
        return write(storage, path, data)

    monkeypatch.setattr(Storage, "write", failing_write)
    monkeypatch.setattr(retrying, "WAIT_SECONDS", 0.0)
    board: Any = SimpleNamespace(post=SimpleNamespace(remote=lambda _, record: steps.append(record.step)))
    ProxyTrainer().train(job, config, board)
    assert artifacts.find(job.draft.kind, job.draft.id) is not None
    assert steps == [1, 2, 3, 4, 5, 5, *range(5, 21)], "it goes on from the checkpoint of step 4"


def test_sources_of_equal_content_share_one_proxy(
    ray_session: Session, artifacts: Artifacts, sources: dict[str, Artifact]
) -> None:
    twins = {"one": sources["low"], "other": sources["low"]}
    began: set[str] = set()
    proxies = proxies_of(ray_session, artifacts, twins, lambda key, _: began.add(key))
    assert proxies["one"] == proxies["other"]
    assert len(began) == 1


def test_news_may_get_lost_but_the_run_goes_on(ray_session: Session) -> None:
    ray_session.connect()
    told: list[tuple[str, Any]] = []
    watcher = Watcher(lambda *news: told.append(news), ray_session.moved)
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
    jobs = arm_jobs(artifacts, config, data_of(sources), shares, {})
    return retrain(session, artifacts, config, jobs, lambda *_: None)["mixed"]


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


def test_an_elastic_range_a_worker_that_dies_and_a_controller_that_dies(
    ray_session: Session, artifacts: Artifacts, sources: dict[str, Artifact]
) -> None:
    config = RetrainConfig(model=MODEL, tokens=800 * 4 * WINDOW, batch=4, checkpoints=50, workers=(1, 2))
    victims = ["RayTrainWorker", "TrainController"]
    ended = threading.Event()

    def kill_one_of_each() -> None:
        """The second once another state has been saved after the first was dead."""
        states: set[Path] = set()
        while victims and not ended.wait(0.2):
            newer = set(Path(artifacts.storage.root).glob("checkpoints/model/*/step-*.pt")) - states
            if newer and (processes := list(workers_named(victims[0]))):
                os.kill(processes[0], signal.SIGKILL)
                del victims[0]
                states |= newer

    thread = threading.Thread(target=kill_one_of_each)
    thread.start()
    try:
        model = arm(ray_session, artifacts, sources, config)
    finally:
        ended.set()
        thread.join()
    assert victims == [], "nobody was there to kill"
    assert model.meta["tokens"] == 800 * 4 * WINDOW
    steps = [tokens for tokens, _ in model.meta["curve"]]
    assert steps == sorted(set(steps))
    assert artifacts.storage.sizes("checkpoints") == {}


def test_a_retraining_whose_process_is_killed_repeats_one_interval_at_most_and_ends_with_the_same_bits(
    ray_session: Session, artifacts: Artifacts, sources: dict[str, Artifact], tmp_path: Path
) -> None:
    steps = 1600
    config = RetrainConfig(model=MODEL, tokens=steps * 4 * WINDOW, batch=4, checkpoints=50)
    shares = {"mixed": {"low": 0.25, "high": 0.75}}
    reported: list[int] = []
    saved = killed_ms = 0

    def kill_half_way(_: str, record: Any) -> None:
        nonlocal saved, killed_ms
        if record.time > killed_ms:  # records of before the kill may come after it
            reported.append(record.step)
        if not saved and record.step >= steps // 2:
            states = Path(artifacts.storage.root).glob("checkpoints/model/*/step-*.pt")
            saved = max(int(path.name.split("-")[1]) for path in states)
            for process in workers_named("RayTrainWorker"):
                os.kill(process, signal.SIGKILL)
            killed_ms = now_ms()
            reported.clear()

    jobs = arm_jobs(artifacts, config, data_of(sources), shares, {})
    survived = retrain(ray_session, artifacts, config, jobs, kill_half_way)["mixed"]
    assert 0 < saved < steps, "nobody was killed"
    assert saved < reported[0], "it went back before its last state"

    elsewhere = Artifacts(Storage(str(tmp_path / "elsewhere")), "test")
    again = {name: tokens_artifact(elsewhere, name, low, low + 20) for name, low in (("low", 0), ("high", 30))}
    (undisturbed,) = arm_jobs(elsewhere, config, data_of(again), shares, {}).values()
    threads = torch.get_num_threads()
    try:
        undisturbed.run(use_resources(Resources()), lambda _: None)
    finally:
        torch.set_num_threads(threads)
    assert undisturbed.draft.id == survived.id
    assert weights_of(survived) == weights_of(elsewhere.get(survived.kind, survived.id))


def test_what_ray_train_kept_for_killed_executions_of_the_run_alone_is_deleted(artifacts: Artifacts) -> None:
    """``test``: the execution of the run that works now."""
    for attempt in ("test", "test.killed", "other.killed"):
        artifacts.storage.write(f"ray-train/{attempt}/arm/snapshot.json", b"{}")
    delete_earlier(artifacts.draft("model", "0" * 64))
    assert artifacts.storage.list("ray-train") == ["other.killed", "test"]


def test_a_robust_arm_tells_how_it_weighed_its_sources(
    ray_session: Session, artifacts: Artifacts, sources: dict[str, Artifact]
) -> None:
    """``low`` cannot be learnt, and ``one``, a single token over and over, is learnt at once."""
    draft = artifacts.draft("tokens", "0" * 63 + "1")
    record = draft.write("000000.bin", stored_windows(np.full((200, WINDOW), 7, dtype="<u2")))
    meta = {"window": WINDOW, "dtype": "<u2", "windows": 200, "tokens": 3200, "shards": {"000000.bin": 200}}
    pools = {"one": draft.publish({"000000.bin": record}, meta), "low": sources["low"], "unused": sources["high"]}
    proxies = {
        name: artifacts.draft("proxy", id * 64).publish(
            {}, {"parameters": 1, "tokens": 1, "seconds": 1.0, "curve": [[tokens, loss] for tokens in range(20)]}
        )
        for name, id, loss in (("one", "a", 3.0), ("low", "b", 2.5), ("unused", "c", 1.0))
    }
    objective = {"kind": "group_dro", "step_size": 0.2, "excess": "proxy"}
    config = RetrainConfig.model_validate(
        {"model": MODEL, "tokens": 60 * 4 * WINDOW, "batch": 4, "workers": 2, "objective": objective}
    )
    records: list[Any] = []
    shares = {"mixed": {"one": 0.875, "low": 0.125, "unused": 0.0}}
    jobs = arm_jobs(artifacts, config, data_of(pools), shares, proxies)
    model = retrain(ray_session, artifacts, config, jobs, lambda _, record: records.append(record))["mixed"]
    weights, losses = model.meta["group_weights"], model.meta["group_losses"]
    assert list(weights) == sorted(losses, key="low one".index) == ["low", "one"]
    assert [sum(values) for values in zip(*([w for _, w in weights[name]] for name in weights), strict=True)] == (
        pytest.approx([1.0] * 60)
    )
    assert weights["low"][-1][1] > 0.9
    assert losses["low"][-1][1] > losses["one"][-1][1]
    assert model.meta["workers"] == 2
    assert records[-1].group_weights == {name: values[-1][1] for name, values in weights.items()}


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
