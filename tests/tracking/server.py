"""A real MLflow server on loopback, for tests in which it comes and goes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


class Server:
    """An MLflow server on loopback that can be started and stopped; its database outlives it.

    ``password``: of its user ``admin``, where it lets in nobody without one.
    """

    def __init__(self, folder: Path, password: str | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._password = password
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        places = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        places += ["--artifacts-destination", str(self.folder / "artifacts")]
        command = [sys.executable, "-m", "mlflow", "server", *places, "--port", str(self.port), "--workers", "1"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        if self._password is not None:
            command += ["--app-name", "basic-auth"]
            secrets = {"MLFLOW_AUTH_ADMIN_PASSWORD": self._password, "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test"}
            environment |= secrets
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while not self._is_healthy():
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session: the server and its worker
            self.process.wait()
            self.process = None

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False
