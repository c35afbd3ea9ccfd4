"""kill -9 of the driver in every stage, then the same command: it goes on, and ends with the same bits. Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mixray.interrupts import _descendants, _status
from tests.end_to_end.conftest import MIXRAY, content_of, kill_at, mixray, results, small_run

STAGES = ["[data] scan", "[proxies] colours", "[cache] animals", "[mixture] zoo", "[retrain] balanced", "[held-out] "]
"""With two at a time, the third proxy begins when the first has been published, and so does the third arm."""


def test_a_run_killed_in_every_stage_ends_as_if_it_had_never_been(finished: Path, tmp_path: Path) -> None:
    run_file, storage = small_run(tmp_path), tmp_path / "runs-here"
    kept: dict[str, dict[str, str]] = {}
    for stage in STAGES:
        kill_at(stage, "run", run_file)
        proxies = content_of(storage, "proxy")
        assert kept.items() <= proxies.items(), f"a finished proxy was trained again before {stage}"
        times = {path: path.stat().st_mtime_ns for path in storage.glob("artifacts/proxy/*/manifest.json")}
        if stage.startswith("[proxies]"):
            assert proxies, "the kill came before any proxy was finished"
        kept = proxies
    done = mixray("run", run_file)
    assert done.returncode == 0, done.stderr
    assert times == {path: path.stat().st_mtime_ns for path in storage.glob("artifacts/proxy/*/manifest.json")}
    undisturbed = finished / "runs-here"
    for kind in ("tokens", "rows", "proxy", "column", "model"):
        # Tokenizers, and all that hangs on them, have the same identity: the documents are the same.
        assert content_of(storage, kind).items() <= content_of(undisturbed, kind).items(), kind
    mine, theirs = results(storage), results(undisturbed)
    assert mine == {name: theirs[name] for name in mine}


@pytest.mark.parametrize(("name", "settings"), [("run", []), ("sweep", ["seed=[0, 1]"])])
def test_ctrl_c_while_models_train_names_the_stage_and_leaves_no_process(
    name: str, settings: list[str], tmp_path: Path
) -> None:
    """A terminal sends Ctrl-C to all processes of the command."""
    command = [*MIXRAY, name, str(small_run(tmp_path)), "proxy.tokens=3_000_000", *settings]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **streams, text=True, start_new_session=True) as process:  # type: ignore[call-overload]
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("[proxies] ") and "loss" in line:
                break
        started = _descendants(process.pid)
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        printed, messages = process.communicate(timeout=60)
        seconds = time.monotonic() - began
    assert len(started) > 3, "".join(lines)
    assert (process.returncode, printed) == (130, "")
    assert messages.endswith("mixray: interrupted in proxies; the same command continues\n"), f"after {seconds:.1f} s"
    deadline = time.monotonic() + 10
    while left := {
        number for number, started_at in started if (status := _status(number)) and status[19] == started_at
    }:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
