"""Two processes, one run file: one works, the other says who does; after a kill -9 it goes on at once."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.end_to_end.conftest import MIXRAY, content_of, mixray, results, small_run


def begin(run_file: Path, stage: str) -> subprocess.Popen[str]:
    """Start a run and return once its progress has come to a stage."""
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*MIXRAY, "run", str(run_file)], **streams, text=True)  # type: ignore[call-overload]
    assert process.stderr is not None
    assert any(line.startswith(stage) for line in process.stderr), "the run ended before the stage"
    return process


def test_a_second_run_of_a_file_is_refused_and_goes_on_after_the_first_was_killed(
    finished: Path, tmp_path: Path
) -> None:
    run_file, storage = small_run(tmp_path), tmp_path / "runs-here"
    with begin(run_file, "[proxies] ") as first:
        second = mixray("run", run_file)
        assert second.returncode == 2
        assert "mixray: another process works on this run" in second.stderr
        assert f"process {first.pid} on " in second.stderr
        assert first.poll() is None
        os.kill(first.pid, signal.SIGKILL)
    third = mixray("run", run_file)
    assert third.returncode == 0, third.stderr
    assert "waiting up to" not in third.stderr
    undisturbed = finished / "runs-here"
    for kind in ("tokens", "rows", "proxy", "column", "model"):
        assert content_of(storage, kind) == content_of(undisturbed, kind), kind
    assert results(storage) == results(undisturbed)
    assert not any(storage.glob("checkpoints/*/*"))


def test_two_run_files_that_share_their_work_end_with_the_same_answer(finished: Path, tmp_path: Path) -> None:
    """They differ in nothing that is computed, so every artifact is made by both at once."""
    run_file, storage = small_run(tmp_path), tmp_path / "runs-here"
    other = tmp_path / "other.yaml"
    other.write_text(run_file.read_text().replace("name: small", "name: other"))
    with begin(run_file, "[data] ") as first:
        second = mixray("run", other)
        assert second.returncode == 0, second.stderr
        assert first.stderr is not None
        messages = first.stderr.read()
        assert first.wait() == 0, messages
    checked = mixray("verify", storage)
    assert checked.returncode == 0, checked.stderr
    for kind in ("tokens", "rows", "proxy", "column", "model"):
        assert content_of(storage, kind) == content_of(finished / "runs-here", kind), kind
