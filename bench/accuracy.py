"""How many words each engine gets wrong at each quality, beside its own library's `transcribe` on the same weights."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import anyio
import jiwer

from bench import RECORDINGS, Benchmark
from bench.children import told
from bench.clips import Recording, decoded, recordings
from bench.figures import Figure, Report
from bench.libraries import LIBRARIES
from bench.sides import TENANT, Work, emptied
from pipeline.jobs import JobRequest
from pipeline.settings import EngineSettings, Settings
from pipeline.store.memory import MemoryStore
from stages.engines import load, weights
from stages.engines.catalogue import FORM_OF_BACKEND

Quality = Literal["fast", "balanced", "accurate"]

MODEL: Final = "base"
BEAM: Final = 5
BEYOND: Final[Mapping[Quality, float]] = {"fast": 0.5, "balanced": 0.3, "accurate": 0.3}
"""How many points of word error rate each may lie above the library."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Words that were wrong, of so many."""

    wrong: int
    words: int

    @property
    def rate(self) -> float:
        """In percent."""
        return 100 * self.wrong / self.words


Heard = Mapping[str, str]
"""Texts by the file's name."""


def run(quick: bool) -> Report:
    """``quick``: faster_whisper alone."""
    settings = {"model": f"{MODEL}; beam {BEAM}, 1 for fast; languages not told"}
    figures: list[Figure] = []
    for backend in ("faster_whisper",) if quick else tuple(LIBRARIES):
        theirs = _library(backend)
        ours = _ours(backend)
        figures += _figures(backend, theirs, ours)
        settings.update(_worse(backend, theirs, ours))
    return Report("accuracy", settings, figures)


def _figures(backend: str, theirs: Heard, ours: Mapping[Quality, Heard]) -> Iterator[Figure]:
    library = _together(theirs)
    yield Figure(f"{backend}: library, {library.words} words", [library.rate], "%")
    for quality, heard in ours.items():
        rate = _together(heard).rate
        yield Figure(f"{backend}: {quality}", [rate], "%")
        yield Figure(
            f"{backend}: {quality}, beyond the library", [rate - library.rate], "points", None, BEYOND[quality]
        )


def _worse(backend: str, theirs: Heard, ours: Mapping[Quality, Heard]) -> Iterator[tuple[str, str]]:
    """Every recording in which we got more words wrong than the library."""
    for quality, heard in ours.items():
        pairs = [(one, _errors(one, theirs[one.file]), _errors(one, heard[one.file])) for one in recordings()]
        worse = [f"{one.file} {before.wrong} → {now.wrong}" for one, before, now in pairs if now.wrong > before.wrong]
        yield f"{backend}, {quality}: more words wrong than the library's in", ", ".join(worse) or "none"


def _ours(backend: str) -> Mapping[Quality, Heard]:
    """Through the whole chain, one job after another."""
    engine_settings = EngineSettings.model_validate({"backend": backend, "model": MODEL})
    with tempfile.TemporaryDirectory() as folder, closing(load(engine_settings)) as engine:
        settings = Settings(data_dir=Path(folder))
        return anyio.run(_transcribed, Work(settings, engine, MemoryStore(), ()))


async def _transcribed(work: Work) -> Mapping[Quality, Heard]:
    return {quality: {one.file: await _transcript(work, one, quality) for one in recordings()} for quality in BEYOND}


async def _transcript(work: Work, recording: Recording, quality: Quality) -> str:
    door = work.store.tenant(TENANT)
    async with door.upload() as upload:
        await upload.write(await anyio.Path(RECORDINGS / recording.file).read_bytes())
    job = await door.submit(JobRequest(quality=quality), uploads=[upload.id])
    await emptied(work, 1)
    transcript = await door.transcript(job.id)
    assert transcript is not None  # the job has completed
    return transcript.text


def _library(backend: str) -> Heard:
    """In a process of its own, so that nothing of ours reaches it."""
    heard: Heard = told(f"{backend}'s library", "bench.accuracy", backend)
    return heard


def _together(heard: Heard) -> Errors:
    each = [_errors(one, heard[one.file]) for one in recordings()]
    return Errors(sum(one.wrong for one in each), sum(one.words for one in each))


def _errors(recording: Recording, heard: str) -> Errors:
    """By Whisper's normaliser, so that spelling and punctuation count nothing."""
    plain = _normaliser(recording.language)
    compared: Any = jiwer.process_words(plain(recording.said), plain(heard))
    wrong = compared.substitutions + compared.deletions + compared.insertions
    return Errors(wrong, wrong - compared.insertions + compared.hits)


@cache
def _normaliser(language: str) -> Any:
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

    return EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()


def _heard(backend: str) -> Heard:
    hear = LIBRARIES[backend](weights.find(MODEL, EngineSettings(), FORM_OF_BACKEND[backend]), BEAM)
    return {one.file: hear(decoded(one.file), None) for one in recordings()}


BENCHMARK: Final = Benchmark(
    "accuracy",
    "word error rate of every engine and quality, beside the library's own transcribe",
    "over all recordings: balanced and accurate ≤ 0.3 points above the library, fast ≤ 0.5",
    run,
)

if __name__ == "__main__":
    print(json.dumps(_heard(sys.argv[1])))
