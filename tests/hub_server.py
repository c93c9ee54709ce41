"""A web server on this machine that takes uploads as the Hugging Face Hub does, as far as small files need it."""

import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HubServer(ThreadingHTTPServer):
    """Attributes: repositories {name: what its making said}, files {name: {path: bytes}}, tokens that were shown, and
    status, of every answer where it is not 200."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.tokens: set[str] = set()
        self.status = 200

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_) -> None: ...

    def do_GET(self) -> None:
        self._answer({"error": "there is nothing to read here"}, 404)

    def do_POST(self) -> None:
        server, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        server.tokens.add(self.headers.get("Authorization", ""))
        if server.status != 200:
            return self._answer({"error": "told so by the test"}, server.status)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            server.repositories[name] = asked
            return self._answer({"url": f"{server.endpoint}/{name}"})
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        name, _, what = self.path.removeprefix("/api/models/").rpartition("/main")[0].rpartition("/")
        if what == "preupload":
            given = json.loads(body)["files"]
            how = {"uploadMode": "regular", "shouldIgnore": False}
            return self._answer({"files": [{"path": one["path"], **how} for one in given]})
        if what == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    server.files.setdefault(name, {})[line["value"]["path"]] = content
            return self._answer({"commitUrl": f"{server.endpoint}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40})
        return self._answer({"error": f"not known here: {self.path}"}, 404)

    def _answer(self, found: dict, status: int = 200) -> None:
        content = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
