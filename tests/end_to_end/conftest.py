"""A run small enough for two cores: three sources of made-up text, two targets, models of a few thousand parameters."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

NAMESPACE = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
"""Before a command that shall see no network, no process and no port but its own."""
WORDS = {
    "animals": ["fox", "dog", "hen", "owl", "cat", "bee", "ant", "cow", "pig", "elk"],
    "numbers": ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
    "colours": ["red", "blue", "green", "pink", "grey", "teal", "gold", "lime", "plum", "jade"],
}


def write_documents(path: Path, words: list[str], count: int, seed: int, length: int = 60) -> None:
    """``count`` documents of random words as JSON lines."""
    draw = np.random.default_rng([seed, count])
    lines = [json.dumps({"text": " ".join(draw.choice(words, length))}) for _ in range(count)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def small_run(folder: Path, **changes: Any) -> Path:
    """A run file over three sources and two targets in ``folder``, and its data; ``changes`` replace whole sections."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, words) in enumerate(WORDS.items()):
        write_documents(folder / f"{name}.jsonl", words, 150, seed)
    write_documents(folder / "zoo.jsonl", WORDS["animals"], 40, 11)
    write_documents(folder / "mixed.jsonl", WORDS["numbers"] + WORDS["colours"], 40, 12)
    model = {"architecture": "gpt_neox", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    content: dict[str, Any] = {
        "name": "small",
        "seed": 0,
        "storage": str(folder / "runs-here"),
        "tokenizer": {"train": {"vocab_size": 320, "sample_bytes": 50_000}},
        "window": 32,
        "sources": {name: {"jsonl": str(folder / f"{name}.jsonl")} for name in WORDS},
        "targets": {
            "zoo": {"jsonl": str(folder / "zoo.jsonl")},
            "mixed": {"jsonl": str(folder / "mixed.jsonl")},
        },
        "proxy": {"model": model, "tokens": 30_000, "batch": 8},
        "cache": {"batch_tokens": 2048, "actors": 1},
        "mixture": {"bootstrap": 50},
        "retrain": {"model": model, "tokens": 20_000, "batch": 8, "arms": ["mixmin", "balanced"]},
        **changes,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


Command = Callable[..., "subprocess.CompletedProcess[str]"]


MIXRAY = (sys.executable, "-m", "mixray.cli")


def mixray(*arguments: str | Path, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    command = [*MIXRAY, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def two_processors() -> None:
    """So that two proxies train at a time, on whatever machine."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


def kill_at(line: str, *arguments: str | Path, program: Sequence[str] = MIXRAY, timeout: float = 1200) -> list[str]:
    """Run the program and kill -9 it when a line of its stderr begins so; the lines up to there."""
    command = [*program, *map(str, arguments)]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **streams, text=True, preexec_fn=two_processors) as process:  # type: ignore[call-overload]
        assert process.stderr is not None
        seen, deadline = [], time.monotonic() + timeout
        for text in process.stderr:
            seen.append(text.rstrip())
            if text.startswith(line):
                os.kill(process.pid, signal.SIGKILL)
                break
            assert time.monotonic() < deadline, seen
        process.wait()
        assert process.returncode == -signal.SIGKILL, "\n".join(seen)
    return seen


def results(folder: Path) -> dict[str, Any]:
    """Everything that a run found out, without how long it took and where it lies."""
    found = {}
    for path in sorted(folder.glob("runs/*/mixtures/*.json")):
        content = json.loads(path.read_text())
        for arm in content["retrain"].values():
            del arm["seconds"], arm["model"]
        del content["run"]
        found[path.name] = content
    return found


def content_of(folder: Path, kind: str) -> dict[str, dict[str, str]]:
    """Artifact id -> file name -> sha256, of every published artifact of a kind."""
    manifests = [json.loads(path.read_text()) for path in folder.glob(f"artifacts/{kind}/*/manifest.json")]
    return {entry["id"]: {name: file["sha256"] for name, file in entry["files"].items()} for entry in manifests}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run that nothing disturbed; its storage is ``runs-here`` in it."""
    folder = tmp_path_factory.mktemp("finished")
    done = mixray("run", small_run(folder), "--json")
    assert done.returncode == 0, done.stderr
    (folder / "stdout.json").write_text(done.stdout)
    (folder / "stderr.txt").write_text(done.stderr)
    return folder


@pytest.fixture
def cluster_folder() -> Iterator[Path]:
    """A folder for a cluster's files, with a path that is short enough for its sockets."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("the commands ip and unshare are not installed")
    permitted = subprocess.run([*NAMESPACE, "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    if permitted.returncode != 0:
        pytest.skip(f"namespaces are not permitted here: {permitted.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory(prefix="mixray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
