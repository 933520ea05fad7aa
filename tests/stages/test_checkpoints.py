"""What the engine has said is not asked for again: another attempt goes on where the first one was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from anyio import to_thread
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.claim import Abandoned, Claim, Failure, Why
from pipeline.jobs import JobRequest
from pipeline.settings import QueueSettings
from pipeline.store import Unavailable
from pipeline.store.memory import MemoryJobQueue, MemoryStore
from pipeline.transcript import Track
from stages.checkpoints import DRAFT, UNSAVED_SHARE, Checkpoints, Drafts, Read
from stages.committer import Committer
from stages.engines import CancelFlag, Draft, DraftWord, Window, WindowError
from stages.engines.mock import Fault, MockEngine, Prepared, Script
from stages.messages import TrackAudio, TrackTranscript
from stages.spool import SAMPLE_RATE, Region, Spool
from stages.transcriber import Transcriber
from tests.conformance.store_suite.making import claim as claim_next
from tests.conformance.store_suite.making import submit
from tests.stages.asking import window
from tests.stages.transcribing import Samples, room_of, transcriber
from tests.stages.waiting import at_mock_time, until

LINES = tuple(f"This is line {n} of a long evening." for n in range(1000))
EVERY_OTHER_WINDOW = QueueSettings(checkpoint_seconds=0.008)  # of 2 ms each
HOUR, MINUTE = 3600, 60
WINDOW, PAUSE = 16, 2  # seconds: two windows are more than one may hold


class Stalling(MockEngine):
    """Counts its windows, and after so many of them says nothing more."""

    def __init__(self, stalls_after: float = float("inf"), *, model: str = "mock", faults: tuple[Fault, ...] = ()):
        script = Script(lines=LINES, window_seconds=0.002, max_batch=4, faults=faults)
        super().__init__(script, model=model)
        self.windows, self.stalls_after, self.stalled = 0, stalls_after, False

    def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        if self.windows >= self.stalls_after:
            self.stalled = True
            cancel.wait()
        self.windows += len(batch)
        return super().run(batch, cancel)


async def long_track(path: Path, sound: Samples, seconds: int, name: str = "0:0") -> TrackAudio:
    """The same minute again and again, no two alike, and where is spoken in it."""

    def write() -> None:
        minute = np.resize(sound, MINUTE * SAMPLE_RATE)
        for n in range(seconds // MINUTE):
            spool.append((minute * (0.5 + 0.005 * n)).astype(np.int16))
        spool.finish()

    spool = Spool(path)
    await to_thread.run_sync(write)
    starts = range(0, seconds - WINDOW, WINDOW + PAUSE)
    speech = tuple(Region(start * SAMPLE_RATE, (start + WINDOW) * SAMPLE_RATE) for start in starts)
    return TrackAudio(Track(id=name, index=0, stream=0, channel=0), spool, of=1, speech=speech)


class Attempts:
    """At jobs of these tracks, each with an engine of its own."""

    def __init__(self, *tracks: TrackAudio) -> None:
        self.store, self.tracks = MemoryStore(), tracks
        self.heard: dict[str, TrackTranscript] = {}

    @property
    def windows(self) -> int:
        return sum(len(track.speech or ()) for track in self.tracks)

    async def work(self, claim: Claim, engine: Stalling) -> list[TrackTranscript]:
        """All tracks, unless the engine stalls: then the worker is gone when nothing more happens."""
        stage = transcriber(room_of(engine), self.store, EVERY_OTHER_WINDOW)
        self.heard.clear()
        async with stage.running(), anyio.create_task_group() as group:
            for track in self.tracks:
                group.start_soon(self._hear, stage, claim, track)
            await until(lambda: len(self.heard) == len(self.tracks) or engine.stalled)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        return [self.heard[track.track.id] for track in self.tracks if track.track.id in self.heard]

    async def _hear(self, stage: Transcriber, claim: Claim, track: TrackAudio) -> None:
        self.heard[track.track.id] = await stage.handle(claim, track)

    async def undisturbed(self, **request: Any) -> list[TrackTranscript]:
        await submit(self.store, **request)
        engine = Stalling()
        heard = await self.work(await claim_next(self.store), engine)
        assert engine.windows == self.windows
        return heard

    async def lost(self, **request: Any) -> Claim:
        """The second claim of a job whose worker was lost when four fifths were done."""
        await submit(self.store, **request)
        first = await claim_next(self.store)
        assert await self.work(first, Stalling(0.8 * self.windows)) == []
        await self.store.queue().void_leases()
        again = await claim_next(self.store)
        assert (again.resumes, again.job.losses) == (True, 1)
        return again


@pytest.mark.parametrize("quality", ["balanced", "accurate"])
async def test_an_hour_that_loses_its_worker_at_four_fifths_is_not_heard_again(
    tmp_path: Path, sonnets: Samples, quality: str
) -> None:
    attempts, engine = Attempts(await long_track(tmp_path / "t", sonnets, HOUR)), Stalling()
    heard = await attempts.work(await attempts.lost(quality=quality), engine)
    assert engine.windows < 0.25 * attempts.windows
    assert heard == await attempts.undisturbed(quality=quality)


async def test_two_tracks_that_lose_their_worker_go_on_where_each_was(tmp_path: Path, sonnets: Samples) -> None:
    tracks = [await long_track(tmp_path / name, sonnets, HOUR // 2, name) for name in ("0:0", "0:1")]
    other_voice = replace(tracks[1], track=tracks[1].track.model_copy(update={"language": "de"}))
    attempts, engine = Attempts(tracks[0], other_voice), Stalling()
    heard = await attempts.work(await attempts.lost(), engine)
    assert engine.windows < 0.25 * attempts.windows
    assert heard == await attempts.undisturbed()


async def test_of_another_model_other_options_or_other_media_nothing_is_taken(tmp_path: Path, sonnets: Samples) -> None:
    attempts = Attempts(await long_track(tmp_path / "t", sonnets, 5 * MINUTE))
    again = await attempts.lost()
    other_options = replace(again, job=replace(again.job, request=JobRequest(prompt="Sonnets.")), held={})
    other_media = Attempts(await long_track(tmp_path / "louder", sonnets + sonnets // 8, 5 * MINUTE))
    other_media.store = attempts.store
    for work, claim, engine in (
        (attempts, replace(again, held={}), Stalling(model="another")),
        (attempts, other_options, Stalling()),
        (other_media, replace(again, held={}), Stalling()),
    ):
        await work.work(claim, engine)
        assert engine.windows == work.windows


async def test_a_window_that_failed_is_asked_for_again_and_the_others_are_not(tmp_path: Path, sonnets: Samples) -> None:
    attempts = Attempts(await long_track(tmp_path / "t", sonnets, 5 * MINUTE))
    await submit(attempts.store, prompt="mark", language="en")
    first, second = await claim_next(attempts.store), Stalling()
    [heard] = await attempts.work(first, Stalling(faults=(Fault(mark="mark", kind="window", times=3),)))
    assert heard.error is not None
    await Committer(attempts.store.queue(), QueueSettings(retry_seconds=0.001)).settle(
        first, Failure("interleaver", heard.error)
    )
    await until(lambda: attempts.store.rows[first.job.id].ready_at <= anyio.current_time())
    await attempts.store.queue().tend()
    [mended] = await attempts.work(await claim_next(attempts.store), second)
    assert (mended.error, second.windows) == (None, 3)


# ── what is written, and when ────────────────────────────────────────────────────────────────────────────────────────


class Book(MemoryJobQueue):
    """Counts writes; ``away`` of them fail before one is taken."""

    def __init__(self, store: MemoryStore, *, away: int = 0) -> None:
        super().__init__(store)
        self.writes, self.away = 0, away

    async def keep(self, claim: Claim, drafts: Mapping[bytes, str]) -> None:
        if self.away:
            self.away -= 1
            raise Unavailable("The database cannot be used right now.")
        self.writes += 1
        await super().keep(claim, drafts)


class Asked:
    """A job whose windows take as many engine seconds as a test says."""

    def __init__(self, queue: Book, claim: Claim) -> None:
        self.claim, self.number = claim, 0
        self.checkpoints = Checkpoints(queue, QueueSettings(checkpoint_seconds=30.0), MockEngine().info)

    async def one(self, seconds: float) -> None:
        async def read() -> Window:
            return window(self.number)

        async def ask(read: Read) -> Draft:
            await read()
            self.claim.engine_seconds += seconds
            return MockEngine().run([MockEngine().prepare(await read())], CancelFlag())[0]  # type: ignore[return-value]  # no fault is scripted

        self.number += 1
        await self.checkpoints.answer(self.claim, read, ask)
        await anyio.wait_all_tasks_blocked()


@given(st.lists(st.floats(0.01, 15.0), max_size=30))
@settings(max_examples=30, deadline=None)
async def test_a_lost_worker_costs_no_more_than_it_may_and_writes_are_few(costs: list[float]) -> None:
    store = MemoryStore()
    await submit(store)
    queue, claim = Book(store), await claim_next(store)
    asked, unsaved, kept = Asked(queue, claim), 0.0, 0
    async with asked.checkpoints.running():
        for cost in costs:
            await asked.one(cost)
            now = len(await queue.kept(claim))
            unsaved, kept = (0.0 if now > kept else unsaved + cost), now
            assert unsaved < 30.0
    assert queue.writes <= sum(costs) / (30.0 * UNSAVED_SHARE)


def test_a_checkpoint_that_the_store_does_not_take_is_written_later() -> None:
    async def main() -> None:
        store = MemoryStore()
        await submit(store)
        queue, claim = Book(store, away=2), await claim_next(store)
        asked = Asked(queue, claim)
        async with asked.checkpoints.running():
            for _ in range(4):
                await asked.one(20.0)
                await anyio.sleep(2.0)
        assert queue.writes == 2
        assert len(await queue.kept(claim)) == 4

    at_mock_time(main)


async def test_a_checkpoint_of_a_job_that_is_somebody_elses_ends_the_work() -> None:
    store = MemoryStore()
    await submit(store)
    queue, claim = Book(store), await claim_next(store)
    await store.queue().void_leases()
    asked = Asked(queue, claim)
    async with asked.checkpoints.running():
        await asked.one(20.0)
    assert claim.abandoned is Why.LEASE_LOST


async def test_what_is_not_written_yet_is_written_before_the_job_is_given_back() -> None:
    store = MemoryStore()
    await submit(store)
    queue, claim = Book(store), await claim_next(store)
    asked = Asked(queue, claim)
    await asked.one(0.5)
    await Committer(queue, QueueSettings()).settle(claim, Failure("chain", Abandoned(Why.STOPPED)))
    again = await claim_next(store)
    assert again.resumes
    assert len(await queue.kept(again)) == 1


async def test_what_has_answered_once_is_not_held_any_longer() -> None:
    store = MemoryStore()
    await submit(store)
    queue, claim = Book(store), await claim_next(store)
    asked = Asked(queue, claim)
    for _ in range(3):
        await asked.one(1.0)
    await Committer(queue, QueueSettings()).settle(claim, Failure("chain", Abandoned(Why.STOPPED)))
    again = await claim_next(store)
    asked = Asked(queue, again)
    for left in (2, 1, 0):
        await asked.one(1.0)
        assert len(Drafts.of(again).earlier or {}) == left
    assert again.engine_seconds == 0.0


numbers = st.floats(-100, 100)
words = st.builds(DraftWord, st.text(), numbers, numbers, numbers)


@given(st.builds(Draft, st.text(), st.lists(words).map(tuple), st.text(), *[st.none() | numbers] * 4))
def test_a_draft_is_read_as_it_was_written(draft: Draft) -> None:
    assert DRAFT.validate_json(DRAFT.dump_json(draft).decode()) == draft
