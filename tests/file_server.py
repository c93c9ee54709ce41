"""A web server on this machine that misbehaves as told, for the tests of downloads."""

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """How one request is answered instead of with the file.

    Attributes:
      status: of the answer; 200 for the file itself.
      headers: added to it.
      cut: body bytes after which the connection is closed; None for never.
      silence: seconds of waiting before the body.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    silence: float = 0.0


class FileServer(ThreadingHTTPServer):
    """Attributes: files {path: bytes}, answers (one per request, then normal), requests [(path, headers)] and the rest
    of its character, set by the test."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.ranges, self.validator = True, {"ETag": '"1"'}
        self.pause, self.piece = 0.0, 1 << 20  # seconds between pieces of the body

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def ranges_asked(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]

    def handle_error(self, request, client_address) -> None:
        """A client that was killed is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def log_message(self, *_) -> None: ...

    def do_GET(self) -> None:
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        answer = server.answers.pop(0) if server.answers else Answer()
        content = server.files.get(self.path.partition("?")[0].lstrip("/"))
        if content is None and answer.status == 200:
            answer = Answer(404)
        if answer.status != 200:
            return self._send(answer.status, answer.headers, b"an error page", answer)
        headers, status = server.validator | answer.headers, 200
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", "") in ("", *server.validator.values())
        if server.ranges and asked and same:
            start = int(asked[1])
            if start >= len(content):
                return self._send(416, {"Content-Range": f"bytes */{len(content)}"}, b"", answer)
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        return self._send(status, headers, content, answer)

    def _send(self, status: int, headers: dict[str, str], body: bytes, answer: Answer) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        time.sleep(answer.silence)
        sent = body if answer.cut is None else body[: answer.cut]
        for start in range(0, len(sent), self.server.piece):
            self.wfile.write(sent[start : start + self.server.piece])
            time.sleep(self.server.pause)
        if answer.cut is not None:
            self.close_connection = True


@contextlib.contextmanager
def serving() -> Iterator[FileServer]:
    """A server that runs until the end of the block."""
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
