"""An S3 server (moto), and one with faults: a proxy on the loopback before it, which answers chosen requests badly."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

S3_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
CODES = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}


@contextmanager
def s3_server(host: str = "127.0.0.1") -> Iterator[str]:
    """Yield the address of an S3 server that has the bucket ``bucket``. The environment must be ``S3_ENVIRONMENT``."""
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import FileSystem

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request
    server = ThreadedMotoServer(host, 0, verbose=False)
    server.start()
    address = "{}:{}".format(*server.get_host_and_port())
    uri = f"s3://bucket?endpoint_override=http://{address}&scheme=http&allow_bucket_creation=true"
    filesystem, bucket = FileSystem.from_uri(uri)
    filesystem.create_dir(bucket)
    try:
        yield address
    finally:
        server.stop()


@dataclass
class Fault:
    """The next ``times`` requests of a method whose address contains ``part`` get ``status`` or, where that is None,
    the real answer, after ``seconds``."""

    method: str
    part: str
    status: int | None = None
    seconds: float = 0.0
    times: int = 1


@dataclass
class FaultyS3:
    """The proxy. ``faults``: those to come; the first that fits a request is used."""

    upstream: str
    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def uri(self, s3_uri: str) -> str:
        """Return the address of a place on the real server by way of the proxy."""
        return s3_uri.replace(self.upstream, f"127.0.0.1:{self._server.server_port}")

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.part in path:
                    fault.times -= 1
                    return fault
        return None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(proxy: FaultyS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self._body()
            fault = proxy.next_fault(self.command, self.path)
            if fault is not None:
                time.sleep(fault.seconds)
            if fault is None or fault.status is None:
                upstream = HTTPConnection(proxy.upstream, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
                upstream.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
                response = upstream.getresponse()
                self._send(response.status, dict(response.getheaders()), response.read())
                upstream.close()
            else:
                xml = f"<Error><Code>{CODES[fault.status]}</Code><Message>a fault</Message></Error>".encode()
                self._send(fault.status, {"Content-Type": "application/xml"}, xml)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in HOP_BY_HOP | {"content-length"}:
                    self.send_header(name, value)
            is_head = self.command == "HEAD"
            size = headers.get("Content-Length", "0") if is_head else str(len(content))
            self.send_header("Content-Length", size)
            self.end_headers()
            if not is_head:
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
