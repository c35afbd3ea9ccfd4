"""What clouds say to a machine, said by a server on the loopback in their words."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mixray import notices
from mixray.errors import InputError
from mixray.notices import aws_notice, google_notice, run_until_notice

ACTION = '{"action": "terminate", "time": "2026-11-26T08:22:00Z"}'


class Cloud:
    """The metadata servers of both clouds. ``takes_away``: AWS or Google, when that gives notice."""

    def __init__(self) -> None:
        self.takes_away = ""
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                has_lifetime = self.headers["X-aws-ec2-metadata-token-ttl-seconds"] is not None
                self._reply("the-token" if self.path == "/latest/api/token" and has_lifetime else None)

            def do_GET(self) -> None:
                if self.path == "/latest/meta-data/spot/instance-action":
                    is_allowed = self.headers["X-aws-ec2-metadata-token"] == "the-token"
                    self._reply(ACTION if cloud.takes_away == "AWS" and is_allowed else None)
                elif self.path == "/computeMetadata/v1/instance/preempted":
                    is_allowed = self.headers["Metadata-Flavor"] == "Google"
                    self._reply(str(cloud.takes_away == "Google").upper() if is_allowed else None)
                else:
                    self._reply(None)

            def _reply(self, text: str | None) -> None:
                self.send_response(404 if text is None else 200)
                self.end_headers()
                self.wfile.write((text or "").encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.environment = {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{self.host}/",
            "GCE_METADATA_HOST": self.host,
        }
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    served = Cloud()
    for name, value in served.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setattr(notices, "POLL_SECONDS", 0.1)
    yield served
    served.close()


def test_a_machine_that_stays_gets_no_notice(cloud: Cloud) -> None:
    assert cloud.takes_away == ""
    assert (aws_notice(), google_notice()) == (None, None)


def test_each_cloud_is_understood(cloud: Cloud) -> None:
    cloud.takes_away = "AWS"
    assert (aws_notice(), google_notice()) == (f"AWS takes this machine away: {ACTION}", None)
    cloud.takes_away = "Google"
    assert (aws_notice(), google_notice()) == (None, "Google takes this machine away")


def test_a_machine_of_no_cloud_gets_no_notice(cloud: Cloud) -> None:
    cloud.close()
    assert (aws_notice(), google_notice()) == (None, None)


SLEEPER = [sys.executable, "-c", "import time; print('started', flush=True); time.sleep(60)"]


@pytest.mark.parametrize("name", ["AWS", "Google"])
def test_the_command_is_ended_at_a_notice(cloud: Cloud, name: str) -> None:
    lines: list[str] = []
    timer = threading.Timer(1, lambda: setattr(cloud, "takes_away", name))
    timer.start()
    assert run_until_notice(SLEEPER, lines.append) == -signal.SIGTERM
    assert [line.partition(" ")[0] for line in lines] == [name]


def test_the_status_of_a_command_that_ends_by_itself_is_passed_on(cloud: Cloud) -> None:
    assert cloud.takes_away == ""
    assert run_until_notice([sys.executable, "-c", "raise SystemExit(7)"], print) == 7


def test_what_is_no_command_is_refused() -> None:
    with pytest.raises(InputError, match="the command to watch over cannot be started") as caught:
        run_until_notice(["/nowhere/ray", "start"], print)
    assert caught.value.got == "/nowhere/ray start (No such file or directory)"


def test_the_command_line_passes_options_and_sigterm_on(cloud: Cloud, tmp_path: Path) -> None:
    assert cloud.takes_away == ""
    arguments = tmp_path / "arguments"
    code = f"import pathlib, sys, time; pathlib.Path({str(arguments)!r}).write_text(str(sys.argv[1:])); time.sleep(60)"
    command = [sys.executable, "-m", "mixray.cli", "watch", sys.executable, "-c", code, "--block", "--json"]
    with subprocess.Popen(command) as watcher:
        deadline = time.monotonic() + 60
        while not arguments.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        watcher.terminate()
        assert watcher.wait(60) == 128 + signal.SIGTERM
    assert arguments.read_text() == "['--block', '--json']"
