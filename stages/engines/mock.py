"""An engine without a model: it says what a script makes it say, as fast as it is told to, and fails on demand.

What it says depends only on a window's samples, so that it is the same alone or in company. A fault strikes windows
whose prompt contains its mark; a prompt is all that reaches an engine from a job unchanged.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zlib import crc32

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ConfigError, EngineLost
from pipeline.languages import LANGUAGES
from pipeline.settings import EngineSettings
from pipeline.transcript import EngineInfo
from stages.engines import CancelFlag, Capabilities, Draft, DraftWord, Options, Window, WindowError
from stages.engines.weights import shown_name

SILENCE = 0.001  # of full scale: −60 dBFS


class Fault(BaseModel):
    """What befalls windows with ``mark`` in their prompt, the first ``times`` times; 0: always.

    ``window``: that window fails. ``batch``: ``run`` raises. ``lost``: it raises ``EngineLost``. ``hang``: it returns
    only when the batch is cancelled. ``crash``: the process ends at once, as by a fault in native code.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mark: str = Field(min_length=1)
    kind: Literal["window", "batch", "lost", "hang", "crash"]
    times: int = Field(0, ge=0)


class Script(BaseModel):
    """A batch takes ``base_seconds``, and ``window_seconds`` for each window in it. ``words``: with times of words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lines: tuple[str, ...] = Field(("The quick brown fox jumps over the lazy dog.",), min_length=1)
    language: str = "en"
    words: bool = True
    base_seconds: float = Field(0.0, ge=0)
    window_seconds: float = Field(0.0, ge=0)
    lanes: int = Field(1, ge=1)
    max_batch: int = Field(8, ge=1)
    faults: tuple[Fault, ...] = ()


SCRIPT = Script()


@dataclass(frozen=True, slots=True)
class Prepared:
    options: Options
    seconds: float
    line: str


def load(settings: EngineSettings) -> MockEngine:
    """``ENGINE__MODEL`` is a script as JSON if it ends in ``.json``; any other name stands for the script built in."""
    if settings.device not in ("auto", "cpu") or settings.compute_type not in ("auto", "none"):
        raise ConfigError(
            f"ENGINE__DEVICE={settings.device} with ENGINE__COMPUTE_TYPE={settings.compute_type} is not for the mock "
            "engine, which computes nothing; set both to auto."
        )
    script = _read(Path(settings.model)) if settings.model.endswith(".json") else SCRIPT
    changes = {"lanes": settings.threads or script.lanes, "max_batch": settings.max_batch or script.max_batch}
    return MockEngine(script.model_copy(update=changes), model=shown_name(settings.model))


def _read(path: Path) -> Script:
    try:
        return Script.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"ENGINE__MODEL={path} is not a script for the mock engine: {error}") from error


class MockEngine:
    def __init__(self, script: Script = SCRIPT, *, model: str = "mock") -> None:
        self.script = script
        self.info = EngineInfo(backend="mock", model=model, device="cpu", compute_type="none", version="1")
        self.capabilities = Capabilities(
            lanes=script.lanes,
            max_batch=script.max_batch,
            languages=LANGUAGES,
            words=script.words,
            translate=True,
            prompt=True,
            cancellable=True,
            bytes_per_item=1024,
        )
        self._struck = dict.fromkeys(script.faults, 0)
        self._lock = threading.Lock()

    def prepare(self, window: Window) -> Prepared:
        samples = window.samples
        audible = len(samples) > 0 and float(np.abs(samples).max()) > SILENCE
        lines = self.script.lines
        line = lines[crc32(samples.tobytes()) % len(lines)] if audible else ""
        return Prepared(window.options, window.seconds, line)

    def batch_key(self, item: Prepared) -> Hashable:
        return item.options.beam

    def cost(self, item: Prepared) -> float:  # noqa: ARG002 (all windows cost the same)
        return self.script.window_seconds

    def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        faults = [self._fault(item) for item in batch]
        kinds = {fault.kind for fault in faults if fault}
        if "crash" in kinds:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in kinds:
            cancel.wait()
        if "lost" in kinds:
            raise EngineLost("The script of the mock engine says that the device is lost.")
        if "batch" in kinds:
            raise RuntimeError("The script of the mock engine says that this batch fails.")
        cancel.wait(self.script.base_seconds + len(batch) * self.script.window_seconds)
        return [
            WindowError("The script of the mock engine says that this window fails.") if fault else self._draft(item)
            for item, fault in zip(batch, faults, strict=True)
        ]

    def unload(self) -> None:
        """There is no model."""

    def reload(self) -> None:
        """Nor need it come back."""

    def close(self) -> None:
        """There is no memory to give back."""

    def _fault(self, item: Prepared) -> Fault | None:
        with self._lock:
            for fault, struck in self._struck.items():
                if fault.mark in (item.options.prompt or "") and (not fault.times or struck < fault.times):
                    self._struck[fault] += 1
                    return fault
        return None

    def _draft(self, item: Prepared) -> Draft:
        told = item.options.language
        return Draft(
            text=item.line,
            words=_spread(item.line, item.seconds) if self.script.words else (),
            language=told or self.script.language,
            language_probability=None if told else 0.99,
            avg_logprob=-0.1 if item.line else None,
            no_speech_prob=0.01 if item.line else 0.99,
            compression_ratio=1.0 if item.line else None,
        )


def _spread(line: str, seconds: float) -> tuple[DraftWord, ...]:
    """The words of a line, each as long as the others, over the whole window."""
    words = line.split()
    edges = np.linspace(0.0, seconds, len(words) + 1).tolist()
    return tuple(
        DraftWord(f" {word}", start, end, 0.9) for word, start, end in zip(words, edges, edges[1:], strict=False)
    )
