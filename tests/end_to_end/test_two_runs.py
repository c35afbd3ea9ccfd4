"""Two processes, one run file: one works, the other says who does; after a kill -9 it goes on at once."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.end_to_end.conftest import MIXRAY, mixray, small_run

LONG = "proxy.tokens=3_000_000"


def begin(stage: str, run_file: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a run and return once its progress has come to a stage."""
    command = [*MIXRAY, "run", str(run_file), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(stage):
            return process
    raise AssertionError(f"the run ended before {stage}: {''.join(lines)}")


def test_a_second_run_of_a_file_is_refused_and_goes_on_after_the_first_was_killed(tmp_path: Path) -> None:
    run_file, storage = small_run(tmp_path), tmp_path / "runs-here"
    with begin("[proxies] ", run_file, LONG) as first:
        second = mixray("run", run_file, LONG)
        assert second.returncode == 2
        assert "mixray: another process works on this run" in second.stderr
        assert f"process {first.pid} on " in second.stderr
        assert first.poll() is None
        os.kill(first.pid, signal.SIGKILL)
    third = mixray("run", run_file, LONG, "--until", "data")
    assert third.returncode == 0, third.stderr
    assert "waiting up to" not in third.stderr
    checked = mixray("verify", storage)
    assert checked.returncode == 0, checked.stderr


def test_two_run_files_that_make_the_same_artifacts_at_once_leave_them_whole(tmp_path: Path) -> None:
    run_file, storage = small_run(tmp_path), tmp_path / "runs-here"
    other = tmp_path / "other.yaml"
    other.write_text(run_file.read_text().replace("name: small", "name: other"))
    with begin("[data] ", run_file, "--until", "data") as first:
        second = mixray("run", other, "--until", "data")
        assert second.returncode == 0, second.stderr
        assert first.stderr is not None
        messages = first.stderr.read()
    assert first.returncode == 0, messages
    checked = mixray("verify", storage)
    assert checked.returncode == 0, checked.stderr
