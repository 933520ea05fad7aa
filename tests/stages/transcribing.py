"""Tracks for the transcriber, engines that answer as a test says, and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
from anyio import to_thread
from numpy.typing import NDArray

from pipeline.claim import Claim
from pipeline.errors import JobError
from pipeline.settings import AudioSettings, QueueSettings
from pipeline.store.memory import MemoryStore
from pipeline.transcript import Notice, Track
from stages.checkpoints import Checkpoints
from stages.engines import CancelFlag, Draft, DraftWord, Options, Window, WindowError
from stages.engines.mock import MockEngine, Prepared, Script
from stages.engines.room import ModelRoom
from stages.messages import TrackAudio, TrackTranscript
from stages.spool import SAMPLE_RATE, Region, Spool
from stages.transcriber import Transcriber

Samples = NDArray[np.int16]
DAMAGE = Notice(code="media-damaged", detail="A piece is missing.")


class Scripted(MockEngine):
    """Gives these answers in the order in which windows are prepared, and then those of the mock engine."""

    def __init__(self, *answers: Draft | WindowError, seconds: float = 0.0) -> None:
        super().__init__(Script(max_batch=1, window_seconds=seconds))
        self._answers = iter(answers)
        self._scripted: list[tuple[Prepared, Draft | WindowError]] = []
        self.asked: list[Options] = []
        self.given: list[Window] = []
        self.done = self.most_at_once = 0

    def prepare(self, window: Window) -> Prepared:
        item = super().prepare(window)
        self.asked.append(window.options)
        self.given.append(window)
        self.most_at_once = max(self.most_at_once, len(self.asked) - self.done)
        if answer := next(self._answers, None):
            self._scripted.append((item, answer))
        return item

    def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        (item,), answers = batch, super().run(batch, cancel)
        self.done += 1
        return [answer for known, answer in self._scripted if known is item] or answers


def draft(*times: tuple[float, float], language: str = "en", probability: float | None = 0.9) -> Draft:
    words = tuple(DraftWord(f" {n}", start, end, 0.5) for n, (start, end) in enumerate(times))
    text = "".join(word.word for word in words).strip()
    return Draft(text, words, language, probability, -0.25, 0.125, 1.5)


def steady(seconds: float, language: str = "en", probability: float | None = 0.9) -> Draft:
    """So many seconds full of words, each a second long."""
    return draft(*((float(n), n + 1.0) for n in range(round(seconds))), language=language, probability=probability)


SILENCE = draft(language="cy")


async def spooled(path: Path, *parts: Samples, begins: float = 0.0, error: JobError | None = None) -> TrackAudio:
    """A track whose sound begins at so many seconds."""

    def write() -> None:
        spool.mix(round(begins * SAMPLE_RATE), np.concatenate([np.zeros(0, np.int16), *parts]))
        spool.finish(error, (DAMAGE,))

    spool = Spool(path)
    await to_thread.run_sync(write)
    return TrackAudio(Track(id="downmix", index=0, stream=None, channel=None), spool, of=1)


def known(audio: TrackAudio, **facts: object) -> TrackAudio:
    """The same audio, of a track of which this is known."""
    return replace(audio, track=Track.model_validate({**audio.track.model_dump(), **facts}))


def stretch(start: float, end: float) -> Region:
    return Region(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE))


async def transcribed(claim: Claim, engine: MockEngine, track: TrackAudio) -> TrackTranscript:
    [heard] = await side_by_side(claim, engine, track)
    return heard


async def side_by_side(claim: Claim, engine: MockEngine, *tracks: TrackAudio) -> list[TrackTranscript]:
    """The tracks of one job, all at the same time."""
    stage = transcriber(room_of(engine))
    heard: dict[int, TrackTranscript] = {}

    async def hear(n: int) -> None:
        heard[n] = await stage.handle(claim, tracks[n])

    async with stage.running(), anyio.create_task_group() as group:
        for n in range(len(tracks)):
            group.start_soon(hear, n)
    return [heard[n] for n in range(len(tracks))]


def transcriber(room: ModelRoom, store: MemoryStore | None = None, queue: QueueSettings | None = None) -> Transcriber:
    checkpoints = Checkpoints((store or MemoryStore()).queue(), queue or QueueSettings(), room.engine.info)
    return Transcriber(room, AudioSettings(), checkpoints)


def room_of(engine: MockEngine) -> ModelRoom:
    return ModelRoom(engine, memory_limit=2**20, jobs=1, tracks_per_job=4)


def pause(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE), np.int16)
