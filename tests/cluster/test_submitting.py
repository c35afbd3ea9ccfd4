"""What is refused before a job is submitted, and output that is followed over a broken connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from mixray.cluster import submitting
from mixray.cluster.submitting import JobCommand, run_as_job
from mixray.config import RunFile, load_config
from mixray.errors import InputError
from tests.end_to_end.conftest import small_run

NOWHERE = "http://127.0.0.1:1"


def refusal(run_file: str, *overrides: str) -> InputError:
    command = JobCommand("run", run_file, overrides, [], [load_config(run_file, overrides, kind=RunFile)])
    with pytest.raises(InputError) as caught:
        run_as_job(NOWHERE, command, print)
    return caught.value


def test_what_cannot_run_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_file = str(small_run(tmp_path / "inside"))
    monkeypatch.chdir(tmp_path / "inside")
    assert refusal(run_file, "storage=./results").where == "storage"
    assert str(refusal(run_file).got).startswith(NOWHERE)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert refusal("../inside/run.yaml").wanted == f"a file in {tmp_path / 'elsewhere'}"


class BrokenConnection:
    """A client whose connection breaks after each further piece of the output, and whose job ends at last."""

    def __init__(self, *pieces: str) -> None:
        self._pieces, self._connections = pieces, 0

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        self._connections += 1
        for piece in self._pieces[: self._connections]:
            yield piece
        raise RuntimeError("the connection closed unexpectedly")

    def get_job_info(self, job: str) -> Any:
        is_over = self._connections == len(self._pieces) - 1
        return SimpleNamespace(status=JobStatus.SUCCEEDED if is_over else JobStatus.RUNNING)

    def get_job_logs(self, job: str) -> str:
        return "".join(self._pieces)


def test_output_is_written_once_over_broken_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitting, "SECONDS_TO_TRY_AGAIN", 0.0)
    written: list[str] = []
    pieces = ("one\n", "two\nthr", "ee\n", "four\n")
    client: Any = BrokenConnection(*pieces)
    ended = submitting._follow(client, "job", written.append)
    assert ended.status == JobStatus.SUCCEEDED
    assert "".join(written) == "".join(pieces)
