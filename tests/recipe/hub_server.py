"""A small hub on 127.0.0.1: what `huggingface_hub` asks of the real one, and ways to fail.

Serves repository info at a revision, the tree, and files with HEAD, GET and Range. Asked by a
whole URL, as a proxy is, it answers for whatever host.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
BRANCH = "main"
LFS_SUFFIXES = {".safetensors", ".parquet"}
API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/(revision|tree)/([^/]+)\Z")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)\Z")


@dataclass
class Request:
    """One request as it came."""

    method: str
    target: str
    headers: dict[str, str]


@dataclass
class Hub:
    """What the server has, how it fails, and what it was asked.

    Attributes:
        repositories: `models/org/name` or `datasets/org/name` → its folder.
        token: If set, nothing is shown without it.
        cut_once: Name of a file whose next transfer breaks off in the middle.
        spoilt: Name of a file that is sent with other bytes than announced.
        requests: All requests.
    """

    repositories: dict[str, Path] = field(default_factory=dict)
    token: str | None = None
    cut_once: str | None = None
    spoilt: str | None = None
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def asked(self, method: str, name: str) -> list[Request]:
        """The requests for one file."""
        return [r for r in self.requests if r.method == method and r.target.endswith(name)]


@contextmanager
def serve_hub(**repositories: Path) -> Iterator[Hub]:
    """Serves until the end of the block."""
    hub = Hub(dict(repositories))

    class Handler(_Handler):
        hub_state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub_state: Hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Keeps the tests' output clean."""

    def _answer(self) -> None:
        hub = self.hub_state
        headers = {name.lower(): value for name, value in self.headers.items()}
        hub.requests.append(Request(self.command, self.path, headers))
        path = unquote(urlsplit(self.path).path)
        api, file = API.match(path), FILE.match(path)
        if api is not None:
            key, revision = f"{api[1]}/{api[2]}", api[4]
        elif file is not None:
            key, revision = f"{(file[1] or 'models/')}{file[2]}", file[3]
        else:
            key, revision = path, ""
        folder = hub.repositories.get(key)
        if hub.token is not None and headers.get("authorization") != f"Bearer {hub.token}":
            self._refuse(401, "RepoNotFound")
        elif folder is None:
            self._refuse(404, "RepoNotFound")
        elif revision not in (COMMIT, BRANCH):
            self._refuse(404, "RevisionNotFound")
        elif file is not None:
            self._send_file(folder / file[4], file[4])
        elif api is not None and api[3] == "tree":
            self._send_json(list(_list_tree(folder)))
        else:
            self._send_json({"id": key.partition("/")[2], "sha": COMMIT, "siblings": []})

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, path: Path, name: str) -> None:
        hub = self.hub_state
        if not path.is_file():
            self._refuse(404, "EntryNotFound")
            return
        body = path.read_bytes()
        etag = _etag(path)
        if name == hub.spoilt:
            body = body[:-1] + bytes([body[-1] ^ 1])
        start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body) - start))
        if path.suffix in LFS_SUFFIXES:
            self.send_header("X-Linked-Etag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if name == hub.cut_once:
            hub.cut_once = None
            self.wfile.write(body[start : len(body) // 2])
            self.close_connection = True
            return
        self.wfile.write(body[start:])


def _list_tree(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        size = path.stat().st_size
        entry = {
            "type": "file",
            "path": path.relative_to(folder).as_posix(),
            "oid": _git_oid(path),
            "size": size,
        }
        if path.suffix in LFS_SUFFIXES:
            entry["lfs"] = {"oid": _etag(path), "size": size, "pointerSize": 130}
        yield entry


def _etag(path: Path) -> str:
    if path.suffix in LFS_SUFFIXES:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return _git_oid(path)


def _git_oid(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
