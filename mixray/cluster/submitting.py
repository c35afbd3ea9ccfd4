"""A command as a job of a cluster: handed to its head, followed from here, and taken up again by the same command."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import requests
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from mixray.config import RunFile
from mixray.errors import InputError, MixrayError, first_line, holds_secret
from mixray.store import fingerprint

NOT_UPLOADED = ["mixray-runs", ".git", ".venv"]
SECONDS_TO_TRY_AGAIN = 2.0


@dataclass(frozen=True)
class JobCommand:
    """A command of mixray to give on a cluster: ``run`` or ``sweep`` with a run file, settings and options.

    ``configs``: what the run file says with the settings, for each run of the command.
    """

    name: str
    run_file: str
    overrides: Sequence[str]
    options: Sequence[str]
    configs: Sequence[RunFile]

    def words(self) -> list[str]:
        """Return the command. Raises InputError for a run file outside the current folder."""
        path = _path_in_job(self.run_file)
        return ["python", "-m", "mixray.cli", self.name, path, *self.overrides, *self.options]

    def job_name(self) -> str:
        """Return how the ids of its jobs begin, the same for whatever does the same."""
        facts = [[config.model_dump(mode="json") for config in self.configs], list(self.options)]
        return f"mixray-{self.configs[0].name}-{fingerprint([self.name, *facts])[:8]}"


def run_as_job(address: str, command: JobCommand, write: Callable[[str], None]) -> int:
    """Give a command as a job of the cluster whose dashboard is at ``address``, and return its exit status.

    The current folder travels to the cluster. ``write`` is called with pieces of the job's output as they come. A job
    that does the same and still runs is followed instead of starting another one; one that has ended is followed by a
    new one, which continues from the storage.

    Raises InputError before anything is submitted where the run file is not in the current folder or stores into the
    job's own folder, and where no cluster answers; KeyboardInterrupt, which says how to come back, after Ctrl-C: the
    job goes on.
    """
    words, name = command.words(), command.job_name()
    _require_lasting(command.configs[0].storage)
    client = _connect(address)
    try:
        job = _running(client, name) or _submit(client, name, shlex.join(words))
        try:
            ended = _follow(client, job, write)
        except KeyboardInterrupt:
            write("\n")  # the output may have come to the middle of a line
            stop = f"ray job stop --address {shlex.quote(address)} {job}"
            raise KeyboardInterrupt(
                f"the {command.name} goes on as the job {job}; the same command shows it again, {stop} ends it"
            ) from None
    except requests.ConnectionError as error:
        raise MixrayError(
            "the cluster does not answer any more",
            where=address,
            got=first_line(error),
            remedy="a job that was submitted goes on; the same command shows it again",
        ) from error
    if ended.status == JobStatus.SUCCEEDED:
        return 0
    if ended.driver_exit_code is None:
        raise MixrayError(f"the job {job} ended as {ended.status}", where=address, got=ended.message)
    return int(ended.driver_exit_code)


def _path_in_job(run_file: str) -> str:
    """Return the path of a run file in the folder that travels."""
    path = Path(run_file).resolve()
    if not path.is_relative_to(Path.cwd()):
        raise InputError(
            "the run file is not in the current folder, which travels to the cluster",
            where=run_file,
            wanted=f"a file in {Path.cwd()}",
            remedy="change to the folder that holds it",
        )
    return path.relative_to(Path.cwd()).as_posix()


def _require_lasting(storage: str) -> None:
    if "://" not in storage and not Path(storage).is_absolute():
        raise InputError(
            "the storage is a folder of the job, which the cluster deletes",
            where="storage",
            got=storage,
            wanted="object storage such as s3://bucket/prefix, or a folder that all machines share, by its whole path",
        )


def _connect(address: str) -> JobSubmissionClient:
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise InputError(
            "no Ray cluster takes jobs there",
            where="--address or RAY_ADDRESS",
            got=f"{address} ({first_line(error)})",
            wanted="the address of a cluster's dashboard, such as http://10.0.0.1:8265",
        ) from error


def _jobs(client: JobSubmissionClient, name: str) -> list[JobDetails]:
    """Return the jobs of a run, of this and of earlier submissions."""
    return [job for job in client.list_jobs() if (job.submission_id or "").startswith(name)]


def _running(client: JobSubmissionClient, name: str) -> str | None:
    ids = [str(job.submission_id) for job in _jobs(client, name) if not job.status.is_terminal()]
    return ids[0] if ids else None


def _submit(client: JobSubmissionClient, name: str, command: str) -> str:
    """Submit a job under the next free id, and return the id."""
    job = f"{name}-{len(_jobs(client, name)) + 1}"
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    # Whoever sees the dashboard sees these variables.
    variables = {"MLFLOW_TRACKING_URI": server} if server.startswith("http") and not holds_secret(server) else {}
    environment = {"working_dir": ".", "excludes": NOT_UPLOADED, "env_vars": variables}
    try:
        client.submit_job(entrypoint=command, submission_id=job, runtime_env=environment)
    except ValueError as error:
        raise InputError(
            "the current folder cannot travel to the cluster",
            where=os.getcwd(),
            got=first_line(error),
            remedy="name what the run does not need in a file .rayignore, or run from another folder",
        ) from error
    except RuntimeError as error:
        if job not in [other.submission_id for other in _jobs(client, name)]:  # or another process was faster
            raise MixrayError(
                "the cluster does not take the job", got=first_line(error), remedy="run the same command again"
            ) from error
    return job


def _follow(client: JobSubmissionClient, job: str, write: Callable[[str], None]) -> JobDetails:
    """Write a job's output, from its beginning, until it ends."""
    length = 0

    def write_from(text: str, position: int) -> None:
        nonlocal length
        write(text[max(0, length - position) :])
        length = max(length, position + len(text))

    async def tail() -> None:
        position = 0
        async for text in client.tail_job_logs(job):
            write_from(text, position)
            position += len(text)

    while True:
        try:
            asyncio.run(tail())
        except (RuntimeError, aiohttp.ClientError):  # the connection broke
            time.sleep(SECONDS_TO_TRY_AGAIN)
        details = client.get_job_info(job)
        if details.status.is_terminal():
            write_from(client.get_job_logs(job), 0)
            return details
