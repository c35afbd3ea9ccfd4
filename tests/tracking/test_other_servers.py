"""What answers at the address is not MLflow, or refuses us: the warning says why, and the run is not published."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator

import pytest

from mixray.config import RunConfig
from mixray.store import RunIndex, Storage
from mixray.tracking import RunTracking

FOLDER = "runs/quickstart-1a2b3c4d"
DENIED = b'{"error_code": "PERMISSION_DENIED", "message": "not yours"}'


@pytest.fixture
def answering() -> Iterator[Callable[[int, bytes], str]]:
    """Start a server that gives everybody this answer; its address."""
    servers = []

    def start(status: int, body: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"<html>a wiki</html>", "not in a valid JSON format"),
        (404, b"<html>no such page</html>", "404"),
        (403, DENIED, "not yours"),
        (403, b"Invalid Host header", "403"),
        (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}', "no"),
        (503, b"<html>come back later</html>", "too many 503 error responses"),
    ],
)
def test_the_warning_gives_the_reason(
    answering: Callable[[int, bytes], str],
    storage: Storage,
    make_config: Callable[..., RunConfig],
    status: int,
    body: bytes,
    reason: str,
) -> None:
    uri = answering(status, body)
    warnings: list[str] = []
    index = RunIndex(storage, FOLDER)
    with RunTracking(make_config(uri=uri), storage, FOLDER, index, warnings.append):
        pass
    assert len(warnings) == 1
    assert uri in warnings[0]
    assert reason in warnings[0]
    stored = RunIndex.open(storage, FOLDER)
    assert (stored.status, stored.is_published) == ("FINISHED", False)
