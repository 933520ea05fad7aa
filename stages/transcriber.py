"""A track's audio into its words: one coroutine a track asks the room for window after window."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from typing import Any

import anyio
from anyio import Semaphore

from pipeline.claim import Claim
from pipeline.jobs import JobRequest
from pipeline.settings import AudioSettings
from pipeline.stage import Map
from stages.answers import Answer, Answers, passed_on
from stages.bleed import own_speech, whose
from stages.engines import Draft, Options, Window, WindowError
from stages.engines.room import Asker, ModelRoom
from stages.messages import TrackAudio, TrackTranscript
from stages.missed import apart, missed
from stages.speech import regions
from stages.spool import Region
from stages.windows import SpeechWindow, windows

BEAMS = {"fast": 1, "balanced": 5}
"""Beam widths: greedy, and the width that Whisper's command line and faster-whisper use."""


class Transcriber(Map[TrackAudio, TrackTranscript]):
    def __init__(self, room: ModelRoom, settings: AudioSettings) -> None:
        self._room, self._settings = room, settings

    def running(self) -> AbstractAsyncContextManager[Any]:
        return self._room.open()

    async def handle(self, claim: Claim, item: TrackAudio) -> TrackTranscript:
        """Errors of the audio and of the engine make the track a failed one; only the Interleaver fails the job."""
        if item.track.duplicate_of:
            return passed_on(item)
        _advance(claim, item, 0.0)
        answers = _none_yet(item, claim.job.request)
        await self._listen(claim, answers)
        _advance(claim, item, item.spool.seconds)
        return await answers.transcript()

    async def _listen(self, claim: Claim, answers: Answers) -> None:
        """Ask one window at a time until the language is settled, by a voice of the track's own, and then several."""
        places = Semaphore(self._room.windows_per_track)
        async with anyio.create_task_group() as group, aclosing(self._windows(answers)) as found:
            async for window in found:
                n = len(answers.windows)
                answers.windows.append(window)
                options = _options(claim.job.request, answers.language)
                if answers.language is None and not whose(window.regions, answers.marked):
                    answers.settle_language(await self._ask(claim, answers, n, options))
                    continue
                await places.acquire()
                group.start_soon(self._ask, claim, answers, n, options, places)

    def _windows(self, answers: Answers) -> AsyncGenerator[SpeechWindow, None]:
        item = answers.item
        if item.speech is None:
            return windows(item.spool, regions(item.spool, self._settings))
        return windows(item.spool, _each(own_speech(item.speech, answers.left_out)))

    async def _ask(
        self, claim: Claim, answers: Answers, n: int, options: Options, place: Semaphore | None = None
    ) -> Draft | WindowError:
        window = answers.windows[n]
        answer = await self._hear(claim, window, answers, options)
        answers.given[n] = ((window, answer),)
        if isinstance(answer, Draft) and missed(window, answer):
            answers.given[n] = await self._hear_apart(claim, window, answer, answers, options)
        _advance(claim, answers.item, window.passed)
        if place:
            place.release()
        return answer

    async def _hear(
        self, claim: Claim, window: SpeechWindow, answers: Answers, options: Options
    ) -> Draft | WindowError:
        async def read() -> Window:
            return Window(await window.samples(answers.item.spool, answers.left_out), options)

        return await self._room.ask(read, Asker.of(claim, answers.item.track.id))

    async def _hear_apart(
        self, claim: Claim, window: SpeechWindow, whole: Draft, answers: Answers, options: Options
    ) -> Sequence[Answer]:
        """The pieces of a window each for itself, if that tells more than the window as a whole did."""
        options = replace(options, language=whole.language)
        parts = [(piece, await self._hear(claim, piece, answers, options)) for piece in apart(window)]
        words = sum(len(part.words) for _, part in parts if isinstance(part, Draft))
        return parts if words > len(whole.words) else ((window, whole),)


async def _each(found: Iterable[Region]) -> AsyncGenerator[Region, None]:
    for region in found:
        yield region


def _none_yet(item: TrackAudio, request: JobRequest) -> Answers:
    return Answers(
        item,
        language=item.track.language or request.language,
        left_out=item.bleed if request.crosstalk == "suppress" else (),
        marked=item.bleed if request.crosstalk == "mark" else (),
    )


def _options(request: JobRequest, language: str | None) -> Options:
    return Options(
        language=language,
        task="translate" if request.target_language else "transcribe",
        prompt=request.prompt,
        beam=BEAMS[request.quality],
    )


def _advance(claim: Claim, item: TrackAudio, passed: float) -> None:
    """Progress of the job: seconds passed over, summed over its tracks, and never more than it was said to have."""
    tracks: dict[str, float] = claim.held.setdefault("passed", {})
    tracks[item.track.id] = max(passed, tracks.get(item.track.id, 0.0))
    done, total = sum(tracks.values()), claim.progress.audio_seconds_total
    part = done / total if total else 0.0
    claim.advance("transcribing", part, audio_seconds_done=round(min(done, total or done), 2))
