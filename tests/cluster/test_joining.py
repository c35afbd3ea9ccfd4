"""Addresses where no Ray answers: one message, without Ray's minutes of patience. Ray's own lines stay off stderr."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from mixray.cluster import joining
from mixray.cluster.joining import SETTINGS_FRAME, require_answer
from mixray.errors import InputError


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def address_of(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def answer_with(server: socket.socket, answer: bytes) -> None:
    """Answer the next connection with these bytes, and close it."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()


def refusal(address: str) -> InputError:
    with pytest.raises(InputError) as caught:
        require_answer(address)
    assert caught.value.what == "no Ray cluster answers"
    assert address in str(caught.value.got)
    return caught.value


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_a_port_that_nobody_listens_at(listener: socket.socket, prefix: str) -> None:
    address = address_of(listener)
    listener.close()
    assert "Connection refused" in str(refusal(prefix + address).got)


def test_a_host_that_answers_nothing(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "SECONDS_TO_ANSWER", 0.2)
    assert "timed out" in str(refusal(address_of(listener)).got)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_server_that_is_not_rays(listener: socket.socket, answer: bytes) -> None:
    answer_with(listener, answer)
    assert "what answers there is not Ray" in str(refusal(address_of(listener)).got)


def test_the_address_of_the_dashboard() -> None:
    assert "which only the command mixray run takes" in str(refusal("http://127.0.0.1:8265").got)


def test_what_speaks_the_protocol_is_left_to_ray(listener: socket.socket) -> None:
    answer_with(listener, SETTINGS_FRAME)
    require_answer(address_of(listener))


@pytest.mark.usefixtures("ray_session")
def test_a_cluster_answers() -> None:
    import ray

    require_answer(ray.get_runtime_context().gcs_address)


@pytest.mark.parametrize("address", ["auto", "local", "head"])
def test_other_forms_are_left_to_ray(address: str) -> None:
    require_answer(address)


CODE = """
import os
from mixray.cluster.joining import _native_output_aside
from mixray.progress import open_progress
progress = open_progress()
try:
    with _native_output_aside(is_shown_on_failure={shown}):
        os.write(2, b"a line of C++\\n")
        progress.note("a line of progress")
        {inside}
finally:
    os.write(2, b"after\\n")
"""


@pytest.mark.parametrize(
    ("shown", "inside", "expected"),
    [
        (True, "pass", "a line of progress\nafter\n"),
        (False, "raise SystemExit(3)", "a line of progress\nafter\n"),
        (True, "raise SystemExit(3)", "a line of progress\na line of C++\nafter\n"),
        (False, "os.abort()", "a line of progress\nFatal Python error: Aborted\n"),
    ],
)
def test_what_others_write_to_stderr_is_kept_away_but_for_failures(shown: bool, inside: str, expected: str) -> None:
    code = CODE.format(shown=shown, inside=inside)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment)
    assert done.stderr.startswith(expected)
