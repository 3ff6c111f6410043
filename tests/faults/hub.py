"""A hub on this machine whose connection ends in the middle of a file."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

__all__ = ["Hub", "hub"]

COMMIT = "0123456789abcdef" * 2 + "01234567"


@dataclass
class Hub:
    """What it serves, and how.

    Args:
        folders: of repositories, by their names on the hub (``owner/name``).
        address: of the hub.
        cut: the end of the name of a file in whose middle the network goes, for good; empty for none.
        gone: whether it has gone.
        asked: what was asked for.
    """

    folders: dict[str, Path]
    address: str = ""
    cut: str = ""
    gone: bool = False
    asked: list[str] = field(default_factory=list)


@contextmanager
def hub(folders: dict[str, Path], cut: str = "") -> Iterator[Hub]:
    """A hub with some repositories, for as long as the ``with`` block lasts."""
    served = Hub(folders, cut=cut)

    class Handler(_Handler):
        hub = served

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *given: object) -> None:  # noqa: A002
        self.hub.asked.append(f"{self.command} {self.path}")

    def _answer(self, body: bool) -> None:
        if self.hub.gone:
            self.close_connection = True
            return None
        path = unquote(self.path.partition("?")[0]).strip("/")
        for name, folder in self.hub.folders.items():
            for kind, at in (("models", name), ("datasets", f"datasets/{name}")):
                below = path.removeprefix(f"api/{kind}/{name}").strip("/")
                files = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
                if path == f"api/{kind}/{name}" or (path.startswith(f"api/{kind}/{name}/") and "revision/" in below):
                    return self._send({"id": name, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}, body)
                if path.startswith(f"api/{kind}/{name}/tree/"):
                    return self._send(_tree(folder, sorted(_below(folder, self.path, below.split("/")[2:]))), body)
                for version in ("main", COMMIT):
                    if path.startswith(f"{at}/resolve/{version}/"):
                        return self._file(folder / path.removeprefix(f"{at}/resolve/{version}/"), body)
        return self._missing("RepoNotFound")

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, value: object, body: bool) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _file(self, file: Path, body: bool) -> None:
        if not file.is_file():
            return self._missing("EntryNotFound")
        content = file.read_bytes()
        span = (self.headers["Range"] or "bytes=0-").removeprefix("bytes=").split("-")
        first, last = int(span[0] or 0), min(int(span[1] or len(content)), len(content) - 1)
        self.send_response(206 if self.headers["Range"] else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last + 1 - first))
        if self.headers["Range"]:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if body and self.hub.cut and file.name.endswith(self.hub.cut):
            self.hub.gone = True
            self.wfile.write(content[first : (first + last) // 2])
            self.wfile.flush()
            self.close_connection = True
        elif body:
            self.wfile.write(content[first : last + 1])
        return None


def _below(folder: Path, query: str, under: list[str]) -> Iterator[str]:
    top = folder.joinpath(*under)
    every = top.rglob("*") if "recursive=true" in query.lower() else top.glob("*")
    return (each.relative_to(folder).as_posix() for each in every)


def _tree(folder: Path, paths: list[str]) -> list[dict[str, object]]:
    content = {path: (folder / path).read_bytes() for path in paths if (folder / path).is_file()}
    return [
        {"type": "file", "path": path, "size": len(content[path]), "oid": hashlib.sha1(content[path]).hexdigest()}
        if path in content
        else {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
        for path in paths
    ]
