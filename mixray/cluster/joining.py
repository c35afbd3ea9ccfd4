"""Starting a run's local Ray cluster, or joining one that is there, with one message where that fails.

Until Ray's log is open, its C++ side writes to file descriptor 2, between the bars on a terminal. Those lines are kept
from it, and shown where Ray does not start.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private import ray_constants

from mixray.errors import InputError, MixrayError, first_line

SECONDS_TO_ANSWER = 10.0
"""How long a cluster may take to answer at its address."""
SETTINGS_FRAME = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS_FRAME
"""What a client of gRPC sends first. A server answers with settings of its own."""


def start_local_cluster(cpus: int) -> None:
    """Start a cluster on this machine that claims to have so many CPUs, at the second attempt where the first fails.

    Raises MixrayError where Ray does not start.
    """
    # Ray Data's own actors draw a harmless error line from Ray's C++ side at each start.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # A Ray Train group is many processes; Ray warns of them where it starts few at a time.
    start_up = {"worker_maximum_startup_concurrency": max(4, cpus)}
    for is_last in (False, True):
        try:
            with _native_output_aside(is_shown_on_failure=is_last), _on_loopback():
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    _system_config=start_up,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                )
            return
        except Exception as error:  # Ray raises the bare class where its 30 s to start are over
            ray.shutdown()
            if is_last:
                raise MixrayError(
                    "Ray does not start on this machine",
                    got=first_line(error),
                    remedy="run the same command again when the machine is less busy, or give --address of a cluster",
                ) from error


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a cluster that starts meanwhile listen on loopback alone.

    Ray does so by itself on macOS; elsewhere it listens on every network of the machine.
    """
    listens_everywhere = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = listens_everywhere


def join_cluster(address: str) -> None:
    """Join the cluster at an address. Raises InputError where none answers, or it does not let this process in."""
    answers = require_answer(address)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", f"{SECONDS_TO_ANSWER:.0f}")
    try:
        with _native_output_aside(is_shown_on_failure=False):
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:
        if not answers:
            raise _no_answer(address, first_line(error)) from error
        raise InputError(
            "a Ray cluster answers, but does not let this process in",
            where="--address or RAY_ADDRESS",
            got=f"{address} ({first_line(error)}), RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE', 'not set')}",
            wanted="the cluster's access token and its version of Ray",
            remedy="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or the file that RAY_AUTH_TOKEN_PATH names",
        ) from error


def require_answer(address: str) -> bool:
    """Raise InputError where nothing that speaks Ray's protocol answers at ``[ray://]host:port`` within 10 s.

    Ray itself takes minutes to say so. Returns whether something has answered: other forms of an address are left to
    Ray, but for that of its dashboard, which is refused.
    """
    if address.startswith(("http://", "https://")):
        raise _no_answer(address, "the address of Ray's dashboard, which only the command mixray run takes")
    host, _, port = address.removeprefix("ray://").partition("/")[0].rpartition(":")
    if not host or not port.isdigit():
        return False
    try:
        with socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return False
            connection.sendall(HTTP2_GREETING)
            answer = connection.makefile("rb").read(len(SETTINGS_FRAME))
    except (OSError, OverflowError) as error:
        raise _no_answer(address, first_line(error)) from error
    if answer[3:4] != SETTINGS_FRAME[3:4]:
        raise _no_answer(address, "what answers there is not Ray")
    return True


def _no_answer(address: str, reason: str) -> InputError:
    return InputError(
        "no Ray cluster answers",
        where="--address or RAY_ADDRESS",
        got=f"{address} ({reason})",
        wanted="the address of a running cluster, such as 10.0.0.1:6379, or none for a local one",
    )


@contextmanager
def _native_output_aside(*, is_shown_on_failure: bool) -> Iterator[None]:
    """Keep what is written to file descriptor 2 while the block lasts away from it.

    Progress has a descriptor of its own. Should the process crash meanwhile, its traceback goes where it always does.
    """
    with tempfile.TemporaryFile() as aside:
        sys.stderr.flush()
        standard = os.dup(2)
        faulthandler.enable(standard, all_threads=False)
        os.dup2(aside.fileno(), 2)
        has_failed = True
        try:
            yield
            has_failed = False
        finally:
            sys.stderr.flush()
            os.dup2(standard, 2)
            faulthandler.enable(2, all_threads=False)
            os.close(standard)
            if has_failed and is_shown_on_failure:
                aside.seek(0)
                os.write(2, aside.read())
