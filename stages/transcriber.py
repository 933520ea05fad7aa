"""A track's audio into its words: one coroutine a track asks the room for window after window."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager

import anyio
from anyio import Semaphore

from pipeline.claim import Claim
from pipeline.jobs import JobRequest
from pipeline.settings import AudioSettings
from pipeline.stage import Map
from stages.answers import Answers, passed_on
from stages.bleed import own_speech, whose
from stages.checkpoints import Checkpoints
from stages.engines import Options
from stages.engines.room import ModelRoom
from stages.hearing import Hearing
from stages.messages import TrackAudio, TrackTranscript
from stages.readings import QUALITIES
from stages.speech import regions
from stages.spool import Region
from stages.windows import SpeechWindow, windows


class Transcriber(Map[TrackAudio, TrackTranscript]):
    def __init__(self, room: ModelRoom, settings: AudioSettings, checkpoints: Checkpoints) -> None:
        self._room, self._settings, self._checkpoints = room, settings, checkpoints

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self._room.open(), self._checkpoints.running():
            yield

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
        """Ask one window at a time until the language is settled, by a voice of the track's own, and then several.

        In lock-step it stays at one window, as each is given the text before it; those of other tracks run beside it.
        """
        request = claim.job.request
        places = Semaphore(self._room.windows_per_track)
        async with anyio.create_task_group() as group, aclosing(self._windows(answers)) as found:
            async for window in found:
                n, options = len(answers.windows), _options(request, answers)
                answers.windows.append(window)
                unsettled = answers.language is None and not whose(window.regions, answers.marked)
                if unsettled or QUALITIES[request.quality].lock_step:
                    await self._ask(claim, answers, n, options)
                    if unsettled:
                        answers.settle_language(n)
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
    ) -> None:
        item, window = answers.item, answers.windows[n]
        temperatures = QUALITIES[claim.job.request.quality].temperatures
        hearing = Hearing(
            self._room, self._checkpoints, claim, item.track.id, item.spool, answers.left_out, temperatures
        )
        answers.given[n] = await hearing.of(window, options)
        _advance(claim, item, window.passed)
        if place:
            place.release()


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


def _options(request: JobRequest, answers: Answers) -> Options:
    quality = QUALITIES[request.quality]
    return Options(
        language=answers.language,
        task="translate" if request.target_language else "transcribe",
        prompt=request.prompt,
        before=answers.before() if quality.lock_step else None,
        beam=quality.beam,
        short=quality.short,
    )


def _advance(claim: Claim, item: TrackAudio, passed: float) -> None:
    """Progress of the job: seconds passed over, summed over its tracks, and never more than it was said to have."""
    tracks: dict[str, float] = claim.held.setdefault("passed", {})
    tracks[item.track.id] = max(passed, tracks.get(item.track.id, 0.0))
    done, total = sum(tracks.values()), claim.progress.audio_seconds_total
    part = done / total if total else 0.0
    claim.advance("transcribing", part, audio_seconds_done=round(min(done, total or done), 2))
