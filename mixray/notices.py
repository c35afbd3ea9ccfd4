"""The clouds' notices that they will take this machine away, turned into an orderly end of its Ray node.

    mixray watch ray start --address=HEAD:6379 --block

``ray start --block`` that is sent SIGTERM has Ray place nothing more on its node, tells what runs there, and ends it
when that has ended, or after RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S seconds. That must be less than the notice's: AWS
gives two minutes, Google half a minute.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from mixray.errors import InputError

POLL_SECONDS = 2.0
ANSWER_SECONDS = 2.0
METADATA_ADDRESS = "169.254.169.254"
"""Where both clouds answer a machine's questions about itself."""


def run_until_notice(command: Sequence[str], note: Callable[[str], None]) -> int:
    """Run a command and return its exit status. It is sent SIGTERM when a cloud gives notice, or this process gets one.

    ``note`` is called with a line about the notice. Raises InputError where the command cannot be started.
    """
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        raise InputError(
            "the command to watch over cannot be started",
            where="mixray watch",
            got=f"{' '.join(command)} ({error.strerror})",
            wanted="a command such as ray start --address=HEAD:6379 --block",
        ) from error
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                notice = aws_notice() or google_notice()
            if notice is not None:
                note(notice)
                process.terminate()
                return process.wait()
    finally:
        signal.signal(signal.SIGTERM, previous)


def aws_notice() -> str | None:
    """Return the notice that AWS gives a spot machine; None where there is none, or this is not a machine of AWS.

    AWS_EC2_METADATA_SERVICE_ENDPOINT may name another address, as for AWS' own programs.
    """
    base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{METADATA_ADDRESS}").rstrip("/")
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _answer(Request(f"{base}/latest/api/token", method="PUT", headers=lifetime))
    if token is None:
        return None
    question = Request(f"{base}/latest/meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": token})
    action = _answer(question)
    return None if action is None else f"AWS takes this machine away: {action}"


def google_notice() -> str | None:
    """Return the notice that Google gives a machine; None where there is none, or this is not a machine of Google.

    GCE_METADATA_HOST may name another host and port, as for Google's own programs.
    """
    host = os.environ.get("GCE_METADATA_HOST", METADATA_ADDRESS)
    url = f"http://{host}/computeMetadata/v1/instance/preempted"
    is_preempted = _answer(Request(url, headers={"Metadata-Flavor": "Google"}))
    return "Google takes this machine away" if is_preempted == "TRUE" else None


def _answer(request: Request) -> str | None:
    """Return the text of an answer; None where there is none, or it says that there is no such thing."""
    try:
        with _direct().open(request, timeout=ANSWER_SECONDS) as response:
            text: str = response.read().decode().strip()
            return text
    except (OSError, ValueError):  # the next question comes soon
        return None


def _direct() -> OpenerDirector:
    """Return an opener that uses no proxy: the machine's own cloud is asked, whatever the environment says."""
    return build_opener(ProxyHandler({}))
