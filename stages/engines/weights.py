"""The weights of named models: pinned, fetched once, checked, and found again without a network.

ENGINE__MODEL ── a path ────────────────────────────────────────────▶ used as it is
              └─ a name ─── in ENGINE__MODEL_DIR and whole ─────────▶ used, no network
                        └── else: its sources, one after the other ─▶ checked, moved into place

Each form of a model has a folder of its own: ``base``, ``base-pt``, ``base-ggml``. What the conversion tool made of
whole CTranslate2 weights lies there as if it had been fetched, beside a record of what it was made from.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import ConfigError
from pipeline.settings import EngineSettings
from stages.engines.catalogue import ALIASES, FORMS, MODELS, Form, file_name
from stages.engines.sources import SourceFailed

OWN: Mapping[Form, str] = {
    "ctranslate2": "a folder with model.bin and tokenizer.json (a model converted for CTranslate2)",
    "pt": "a .pt file of openai-whisper",
    "ggml": "a ggml .bin file of whisper.cpp",
}

RECORD: Final = "checked.json"


@dataclass(frozen=True, slots=True)
class Listed:
    """One form of a model. ``bytes`` is None where it is not published, ``path`` where it is not here."""

    name: str
    form: Form
    bytes: int | None
    path: Path | None


def find(model: str, settings: EngineSettings, form: Form = "ctranslate2", *, progress: bool = False) -> Path:
    """A model's folder (CTranslate2) or file (the other forms), by name or path; fetches what is not there yet.

    ``progress`` draws a bar on standard error if that is a terminal. Raises ``ConfigError`` when the model is neither
    known nor a path of that form, or cannot be had.
    """
    if not _is_named(model):
        return _own(model, form)
    return pull(model, settings, form, progress=progress)


def shown_name(model: str) -> str:
    """What everybody may read of ``ENGINE__MODEL``: of a path the name of its folder or file, not where that lies."""
    name = Path(model).name or model
    return name.removesuffix(".pt").removesuffix(".bin").removeprefix("ggml-")


def pull(model: str, settings: EngineSettings, form: Form = "ctranslate2", *, progress: bool = False) -> Path:
    """Fetch a named model into ``ENGINE__MODEL_DIR``, unless it is there. One process at a time; others wait for it."""
    place = _named(model, settings, form)
    if place.whole():
        return place.path
    if settings.offline:
        raise ConfigError(
            f"The weights of {place.name!r} are not whole in {place.folder}, and ENGINE__OFFLINE forbids fetching "
            f"them. {place.way_out}"
        )
    try:
        with place.alone() as partial:
            if not place.whole():
                _fetch(place, partial, progress)
                place.settle(partial, _Record.of(partial, place.pins))
    except SourceFailed as failed:
        raise ConfigError(f"The weights of {place.name!r} could not be fetched ({failed}). {place.way_out}") from failed
    return place.path


def convert(model: str, settings: EngineSettings, form: Form, write: Callable[[Path, Path], None]) -> Path:
    """Have ``write(folder, file)`` make a form of a named model of its CTranslate2 weights, unless it is here.

    From then on ``find`` gives what was made.
    """
    place, folder = _named(model, settings, form), source(model, settings)
    with place.alone() as partial:
        if not place.whole():
            write(folder, partial / place.path.name)
            made = {place.path.name: _sha256(partial / place.path.name) or ""}
            place.settle(partial, _Record.of(partial, made, made_from=MODELS[place.name, "ctranslate2"].files))
    return place.path


def source(model: str, settings: EngineSettings) -> Path:
    """CTranslate2's weights to convert: fetched if need be, and of a named model every byte is checked."""
    folder = find(model, settings)
    if _is_named(model) and (damaged := verify(model, settings)):
        raise ConfigError(
            f"{', '.join(damaged)} in {folder} cannot be converted: not what it should be. {repair(model, settings)}"
        )
    return folder


def listed(settings: EngineSettings) -> tuple[Listed, ...]:
    """All models known by name, each in all three forms."""
    places = [_Place(name, form, settings) for name in _names() for form in FORMS]
    return tuple(Listed(at.name, at.form, at.bytes, at.path if at.whole() else None) for at in places)


def verify(model: str, settings: EngineSettings, form: Form = "ctranslate2") -> tuple[str, ...]:
    """Read every byte of a named model again; which files are missing or damaged. Those are not found from then on."""
    place = _named(model, settings, form)
    files = place.expected() or {place.path.name: ""}  # not published and not made: it is missing
    if damaged := _damaged(place.folder, files):
        with suppress(OSError):  # a read-only volume
            (place.folder / RECORD).unlink()
    return damaged


def repair(model: str, settings: EngineSettings, form: Form = "ctranslate2") -> str:
    """A sentence with the command that brings back what is damaged."""
    place = _named(model, settings, form)
    return f"`{place.pull}` fetches it again." if place.pins else f"`{place.convert}` makes it again."


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one form of a named model is kept, and what must be there."""

    name: str
    form: Form
    settings: EngineSettings

    @property
    def folder(self) -> Path:
        return self.settings.model_dir / (self.name if self.form == "ctranslate2" else f"{self.name}-{self.form}")

    @property
    def path(self) -> Path:
        return self.folder if self.form == "ctranslate2" else self.folder / file_name(self.name, self.form)

    @property
    def pins(self) -> Mapping[str, str]:
        return model.files if (model := MODELS.get((self.name, self.form))) else {}

    @property
    def bytes(self) -> int | None:
        return model.bytes if (model := MODELS.get((self.name, self.form))) else None

    @property
    def pull(self) -> str:
        return f"antiphon weights pull {self.name} --form {self.form}"

    @property
    def convert(self) -> str:
        return f"scripts/convert-weights.py {self.name} --to {self.form}"

    @property
    def way_out(self) -> str:
        ways = [f"set ENGINE__MODEL to the path of {OWN[self.form]}"]
        if self.form != "ctranslate2":
            ways.insert(0, f"make them of CTranslate2's by `{self.convert}`")
        if self.pins:
            ways.insert(0, f"run `{self.pull}` on a machine with a network and copy its folder to {self.folder}")
        sentence = ", or ".join(ways)
        return f"{sentence[0].upper()}{sentence[1:]}."

    def made(self) -> _Record | None:
        """What the conversion made here, unless the weights it was made of are not today's."""
        record, source = _Record.read(self.folder), MODELS.get((self.name, "ctranslate2"))
        return record if record and source and record.made_from == source.files else None

    def expected(self) -> Mapping[str, str]:
        """SHA-256 by name."""
        return made.files if (made := self.made()) else self.pins

    def whole(self) -> bool:
        """Whether the right files are there. Hashed when they are not as they were last checked, such as copied."""
        files, made = self.expected(), self.made()
        if not files or not all((self.folder / name).is_file() for name in files):
            return False
        now = _Record.of(self.folder, files, made_from=made.made_from if made else None)
        if now == _Record.read(self.folder):
            return True
        if _damaged(self.folder, files):
            return False
        with suppress(OSError):  # a read-only volume: hashed at every start
            now.write(self.folder)
        return True

    @contextmanager
    def alone(self) -> Iterator[Path]:
        """A folder to work in, for one process at a time; what a killed one left there is still in it."""
        around = self.settings.model_dir
        partial = around / f".{self.folder.name}.partial"
        try:
            around.mkdir(parents=True, exist_ok=True)
            with (around / f".{self.folder.name}.lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed, or its process dies
                partial.mkdir(exist_ok=True)
                try:
                    yield partial
                finally:
                    with suppress(OSError):  # not empty: the next try goes on with it
                        partial.rmdir()
        except OSError as error:
            raise ConfigError(
                f"ENGINE__MODEL_DIR={around} cannot hold the weights of {self.name!r}: {error}"
            ) from error

    def settle(self, partial: Path, record: _Record) -> None:
        """Make checked files the model's folder, in one step for whoever looks."""
        for leftover in set(partial.iterdir()) - {partial / name for name in record.files}:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        record.write(partial)
        shutil.rmtree(self.folder, ignore_errors=True)
        partial.rename(self.folder)


class _Record(BaseModel):
    """Kept beside checked weights, so that a warm start need not read them through: sizes and times, as checked.

    ``files`` and ``made_from``: SHA-256 by name, of these files and of those they were converted from.
    """

    model_config = ConfigDict(frozen=True)

    files: dict[str, str]
    stamps: dict[str, tuple[int, int]]
    made_from: dict[str, str] | None = None

    @classmethod
    def of(cls, folder: Path, files: Mapping[str, str], *, made_from: Mapping[str, str] | None = None) -> _Record:
        stats = {name: (folder / name).stat() for name in files}
        return cls(
            files=dict(files),
            stamps={name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()},
            made_from=None if made_from is None else dict(made_from),
        )

    @classmethod
    def read(cls, folder: Path) -> _Record | None:
        try:
            return cls.model_validate_json((folder / RECORD).read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, folder: Path) -> None:
        (folder / RECORD).write_text(self.model_dump_json())


def _names() -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name, _ in MODELS))


def _named(model: str, settings: EngineSettings, form: Form) -> _Place:
    if not _is_named(model):
        raise ConfigError(
            f"No model is called {model!r}, and only those with a name are fetched and verified. "
            f"Name one: {', '.join(_names())}."
        )
    return _Place(ALIASES.get(model, model), form, settings)


def _is_named(model: str) -> bool:
    return ALIASES.get(model, model) in _names()


def _own(model: str, form: Form) -> Path:
    path = Path(model).expanduser()
    is_folder = all((path / name).is_file() for name in ("model.bin", "tokenizer.json"))
    if is_folder if form == "ctranslate2" else path.is_file():
        return path
    if is_folder:
        raise ConfigError(
            f"ENGINE__MODEL={model} is a model converted for CTranslate2, and this engine needs {OWN[form]}: "
            f"`scripts/convert-weights.py {model} --to {form} --output FILE` makes one."
        )
    raise ConfigError(f"ENGINE__MODEL={model} is neither {OWN[form]} nor a known name ({', '.join(_names())}).")


def _fetch(place: _Place, into: Path, progress: bool) -> None:
    """Try the sources in order. Raises ``SourceFailed`` that tells of all of them."""
    model = MODELS.get((place.name, place.form))
    failures = [] if model else [f"it is not published as {OWN[place.form]}"]
    for source in model.sources if model else ():
        try:
            source.fetch(place.pins, into, progress)
        except SourceFailed as failed:
            failures.append(str(failed))
            continue
        damaged = _damaged(into, place.pins)
        if not damaged:
            return
        for name in damaged:  # or the next try would resume from it
            (into / name).unlink(missing_ok=True)
        failures.append(f"{type(source).__name__}: {', '.join(damaged)} came with the wrong SHA-256")
    raise SourceFailed("; ".join(failures))


def _damaged(folder: Path, files: Mapping[str, str]) -> tuple[str, ...]:
    """Read every byte; the names of the files that are missing or not what they should be."""
    return tuple(name for name, digest in files.items() if _sha256(folder / name) != digest)


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
