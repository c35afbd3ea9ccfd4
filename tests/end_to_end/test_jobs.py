"""The files in jobs/ and cluster.yaml do what their first lines say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import mixray
from tests.end_to_end.conftest import small_run

ROOT = Path(__file__).parents[2]


def test_the_cluster_file_passes_rays_own_validation() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
    kinds = config["available_node_types"].values()
    gpus = sum(kind.get("max_workers", 0) * kind["resources"].get("GPU", 0) for kind in kinds)
    asked = mixray.load_config(ROOT / "jobs" / "slimpajama_pythia.yaml").retrain.worker_range[1]
    assert gpus >= asked == 8


def test_the_cluster_files_machines_have_what_they_need() -> None:
    """An image whose C library the wheels accept, a role that reads the bucket, CPUs that cost no GPU, a watcher."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    machines = {name: kind["node_config"] for name, kind in config["available_node_types"].items()}
    assert all("ubuntu-22.04" in machine["ImageId"] for machine in machines.values())
    profiles = {name: machine["IamInstanceProfile"]["Name"] for name, machine in machines.items()}
    assert profiles == {name: "mixray-head" if name == "head" else "mixray-worker" for name in machines}
    without_gpu = [kind for kind in config["available_node_types"].values() if "GPU" not in kind["resources"]]
    assert any(
        kind["resources"]["CPU"] >= 8 and kind["max_workers"] for kind in without_gpu if "CPU" in kind["resources"]
    )
    assert sum(kind.get("max_workers", 0) for kind in config["available_node_types"].values()) == config["max_workers"]
    assert "mixray watch ray start --address=$RAY_HEAD_IP:6379 --block" in config["worker_start_ray_commands"][-1]


def test_nobody_gets_at_the_cluster_without_its_token() -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for starts in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in starts[-1].partition("ray start")[0]


def test_ray_itself_reads_the_kubernetes_file() -> None:
    """With what its operator's autoscaler makes of it; a pod is not killed before its node has left the cluster."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.util import prepare_config, validate_config

    custom = yaml.safe_load((ROOT / "jobs" / "kuberay.yaml").read_text())
    custom["metadata"]["namespace"] = "default"
    config = _derive_autoscaling_config_from_ray_cr(custom)
    validate_config(prepare_config(config))
    resources = {name: kind["resources"] for name, kind in config["available_node_types"].items()}
    assert (resources["headgroup"]["CPU"], resources["cpu"].get("GPU"), resources["gpu"]["GPU"]) == (0, None, 1)
    constraints = (ROOT / "tests" / "constraints.txt").read_text().splitlines()
    assert f"ray=={custom['spec']['rayVersion']}" in constraints
    for group in custom["spec"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        ((variable,),) = [container["env"] for container in pod["containers"]]
        assert variable["name"] == "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
        assert float(variable["value"]) < pod["terminationGracePeriodSeconds"]


def test_the_papers_experiment_is_forecast_without_its_data() -> None:
    forecast = mixray.plan(ROOT / "jobs" / "slimpajama_pythia.yaml")
    assert forecast.proxy_parameters == 162_322_944  # Pythia-160M
    assert forecast.retrain_parameters == 405_334_016  # Pythia-410M
    assert (forecast.proxy_tokens, forecast.retrain_tokens) == (4_570_000, 8_200_000_000)
    assert len(forecast.sources) == 7
    assert forecast.cost.overhead <= 0.0016
    assert forecast.cost.overhead == pytest.approx(0.00157, abs=3e-5)
    assert "6 x parameters x training tokens" in forecast.cost.formula()
    json.dumps(forecast.to_dict(), allow_nan=False)


def test_the_quickstart_is_forecast_from_what_is_installed() -> None:
    forecast = mixray.plan(ROOT / "jobs" / "quickstart.yaml")
    assert len(forecast.sources) >= 5
    assert len(forecast.targets) == 2
    assert all(pool.bytes for pool in [*forecast.sources.values(), *forecast.targets.values()])


def test_plan_prints_and_starts_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mixray.cli", "plan", str(small_run(tmp_path))]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Forecast of small" in shown.stdout
    assert re.search(r"search / retraining = \d", shown.stdout.replace("\n", " "))
    assert not (tmp_path / "runs-here").exists()


def test_jobs_submitted_to_a_cluster_end_with_their_answers(tmp_path: Path) -> None:
    """``ray job submit`` of both jobs, on a cluster that is not this process's."""
    script = """
import socket, sys, time
from ray.cluster_utils import Cluster
from ray.job_submission import JobStatus, JobSubmissionClient

*entrypoints, = sys.argv[1:]
with socket.socket() as probe:  # the default one may be another cluster's of this machine
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
head = {"num_cpus": 3, "include_dashboard": True, "dashboard_port": 0, "dashboard_agent_listen_port": port}
cluster = Cluster(initialize_head=True, head_node_args=head)
client = JobSubmissionClient(f"http://{cluster.webui_url}")
for attempt in range(60):  # the cluster is up before the agent that takes jobs
    try:
        jobs = [client.submit_job(entrypoint=entrypoint) for entrypoint in entrypoints]
        break
    except RuntimeError as error:
        if "No available agent" not in str(error) or attempt == 59:
            raise
        time.sleep(2)
ends = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)
while any(client.get_job_status(job) not in ends for job in jobs):
    time.sleep(1)
for job in jobs:
    print(client.get_job_logs(job))
failed = [job for job in jobs if client.get_job_status(job) != JobStatus.SUCCEEDED]
cluster.shutdown()
sys.exit(len(failed))
"""
    run_file = small_run(tmp_path)
    small = f"seeds=1 steps=10 evaluations=1 arms=[erm,also] measures.l2=[] measures.rows=100 storage={tmp_path}/robust"
    entrypoints = [
        f"{sys.executable} {ROOT}/jobs/find_mixture.py {run_file} --until mixture --json",
        f"{sys.executable} {ROOT}/jobs/train_robust.py {small}",
    ]
    command = [sys.executable, "-c", script, *entrypoints]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert json.loads(line)["mixtures"]["zoo"]["weights"]["animals"] > 0.9
    (found,) = (tmp_path / "robust").glob("runs/*/results.json")
    assert set(json.loads(found.read_text())["arms"]) == {"erm", "also"}
