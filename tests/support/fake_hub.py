"""A hub on this machine that serves one repository, and counts the bytes it sends."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" * 6 + "c0ff"


class FakeHub(ThreadingHTTPServer):
    """repository: its name; folder: its files. sent: bytes of files that left it."""

    def __init__(self, repository: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repository, self.folder = repository, folder
        self.sent = 0
        self.ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(repository: str, folder: Path) -> Iterator[FakeHub]:
    hub = FakeHub(repository, folder)
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_GET(self) -> None:
        hub = self.server
        path = self.path.partition("?")[0]
        if re.fullmatch(rf"/api/models/{hub.repository}(/revision/(main|{COMMIT}))?", path):
            self._send(200, json.dumps(self._listing()).encode())
            return
        file = re.fullmatch(rf"/{hub.repository}/resolve/{COMMIT}/([\w.-]+)", path)
        if file is None or not (hub.folder / file[1]).is_file():
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        content = (hub.folder / file[1]).read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and hub.ranges:
            content = content[int(asked[1]) : int(asked[2]) + 1]
        hub.sent += len(content)
        self._send(206 if asked and hub.ranges else 200, content)

    def _listing(self) -> dict[str, object]:
        files = []
        for path in sorted(self.server.folder.iterdir()):
            content = path.read_bytes()
            sha256 = hashlib.sha256(content).hexdigest()
            entry: dict[str, object] = {"rfilename": path.name, "size": len(content)}
            if path.suffix == ".safetensors":
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            files.append(entry)
        return {"id": self.server.repository, "sha": COMMIT, "siblings": files}

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Silent."""
