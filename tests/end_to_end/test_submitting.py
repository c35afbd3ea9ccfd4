"""``mixray run FILE --address http://HEAD:8265``: a job that outlives the command, which finds it again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from tests.end_to_end.conftest import MIXRAY, small_run

CLUSTER = """
import socket, sys, time
from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient

with socket.socket() as probe:  # the default one may be another cluster's of this machine
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
head = {"num_cpus": 3, "include_dashboard": True, "dashboard_port": 0, "dashboard_agent_listen_port": port}
cluster = Cluster(initialize_head=True, head_node_args=head)
client = JobSubmissionClient(f"http://{cluster.webui_url}")
for attempt in range(60):  # the cluster is up before the agent that takes jobs
    try:
        client.submit_job(entrypoint="true", submission_id="first")
        break
    except RuntimeError as error:
        if "No available agent" not in str(error):
            raise
        time.sleep(2)
print(f"http://{cluster.webui_url}", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


@pytest.fixture
def dashboard() -> Iterator[str]:
    """The address of the dashboard of a cluster that is not this process's."""
    path = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # where the jobs find python
    command = [sys.executable, "-c", CLUSTER]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **streams, text=True, env=path) as cluster:  # type: ignore[call-overload]
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        lines = iter(cluster.stdout.readline, "")
        yield next(line.strip() for line in lines if line.startswith("http://"))
        cluster.stdin.write("end\n")
        cluster.stdin.flush()


def runs_of(client: JobSubmissionClient) -> dict[str, JobStatus]:
    """The jobs that mixray has submitted, by their ids."""
    return {
        str(job.submission_id): job.status for job in client.list_jobs() if str(job.submission_id).startswith("mixray-")
    }


def test_a_run_is_submitted_left_found_again_and_repeated(tmp_path: Path, dashboard: str) -> None:
    (tmp_path / "here").mkdir()
    text = small_run(tmp_path, targets={"zoo": {"jsonl": str(tmp_path / "zoo.jsonl")}}).read_text()
    (tmp_path / "here" / "run.yaml").write_text(text)
    settings = ["run.yaml", "proxy.tokens=300000", "--until", "mixture", "--address", dashboard, "--json"]
    command, folder = [*MIXRAY, "run", *settings], tmp_path / "here"
    client = JobSubmissionClient(dashboard)

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder) as left:
        assert left.stderr is not None
        lines = iter(left.stderr.readline, "")
        assert any(line.startswith("[proxies] animals") for line in lines)
        left.send_signal(signal.SIGINT)
        (message,) = [line for line in lines if line.startswith("mixray: ")]
        assert left.wait(60) == 130
    ((job, status),) = runs_of(client).items()
    assert status == JobStatus.RUNNING
    assert message == (
        f"mixray: the run goes on as the job {job}; the same command shows it again, "
        f"ray job stop --address {dashboard} {job} ends it\n"
    )

    outputs = []
    for jobs in (1, 2):  # the second time there is a new job, which has nothing left to do
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert list(runs_of(client).values()) == [JobStatus.SUCCEEDED] * jobs
        outputs.append(json.loads(done.stdout))
        assert done.stderr.count("[proxies] begins") == 1
    assert outputs[0] == outputs[1]
    assert outputs[0]["mixtures"]["zoo"]["weights"]["animals"] > 0.9

    values = ["run.yaml", "mixture.bootstrap=[0,20]", "proxy.tokens=300000", "retrain.tokens=2000"]
    sweep = [*MIXRAY, "sweep", *values, "--address", dashboard, "--json"]
    swept = subprocess.run(sweep, capture_output=True, text=True, timeout=600, check=False, cwd=folder)
    assert swept.returncode == 0, swept.stderr
    assert [run["settings"] for run in json.loads(swept.stdout)["runs"]] == [
        {"mixture.bootstrap": value} for value in (0, 20)
    ]
    assert len(runs_of(client)) == 3

    missing = [*command, "sources.animals.jsonl=/nowhere/*.jsonl"]
    failed = subprocess.run(missing, capture_output=True, text=True, timeout=600, check=False, cwd=folder)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "the source animals has no files" in failed.stderr
