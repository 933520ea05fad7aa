"""What the engine has said to each open job, kept in the store so that another attempt need not ask for it again.

An answer is kept by a digest of all that it depends on: the sound, the options, the engine. Nothing has to be known of
how a track is cut, or of how often and in which order its windows are read: another attempt asks what the first one
asked, and is answered from here. Of another model, other options or other media no digest fits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from typing import Final

import anyio
import structlog
from anyio import Lock, to_thread
from pydantic import TypeAdapter
from pydantic_core import to_json

from pipeline.claim import Claim, Why
from pipeline.settings import QueueSettings
from pipeline.store import Fenced, JobQueue, Unavailable
from pipeline.transcript import EngineInfo
from stages.engines import Draft, DraftWord, Window, WindowError

log = structlog.get_logger()

UNSAVED_SHARE: Final = 0.5
"""Of ``QUEUE__CHECKPOINT_SECONDS``: with so much unsaved of a job it is written. The rest is for the batches that run
then, and for the write. As engine seconds run no faster than there are lanes, all jobs together write no more often
than once a lane in that time."""

PAUSE_SECONDS: Final = 1.0
"""After a write that the store did not take."""

DRAFT: Final = TypeAdapter(Draft)
SHAPE: Final = [member.name for kind in (Draft, DraftWord) for member in fields(kind)]
"""Part of the digest: a draft of other members is another release's, and would not be understood."""

Read = Callable[[], Awaitable[Window]]
Ask = Callable[[Read], Awaitable[Draft | WindowError]]


@dataclass(slots=True)
class Drafts:
    """The drafts of one claim. ``earlier``: as attempts before this one left them, once they are loaded;
    each is let go of once it has answered.

    ``saved_seconds``: engine seconds of the claim when ``unsaved`` was written last.
    """

    earlier: dict[bytes, str] | None = None
    unsaved: dict[bytes, Draft] = field(default_factory=dict)
    saved_seconds: float = 0.0
    looking_up: Lock = field(default_factory=Lock)

    @classmethod
    def of(cls, claim: Claim) -> Drafts:
        drafts: Drafts = claim.held.setdefault(cls, cls())
        return drafts


@dataclass(slots=True)
class Question:
    """A window that is read when it is wanted, more than once if need be; ``digest`` may be asked for from then on."""

    reading: Read
    engine: EngineInfo
    _digest: bytes | None = None

    @property
    def digest(self) -> bytes:
        assert self._digest is not None, "Nothing has been read that an answer could depend on."
        return self._digest

    async def read(self) -> Window:
        window = await self.reading()
        self._digest = await to_thread.run_sync(digest, window, self.engine)
        return window


class Checkpoints:
    """Writes while it is ``running``. ``engine``: the one that answers."""

    def __init__(self, queue: JobQueue, settings: QueueSettings, engine: EngineInfo) -> None:
        self._queue, self._engine = queue, engine
        self._most_unsaved = UNSAVED_SHARE * settings.checkpoint_seconds
        self._due: set[Claim] = set()
        self._any_due = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(self._write, name="checkpoints")
            yield
            group.cancel_scope.cancel()

    async def answer(self, claim: Claim, read: Read, ask: Ask) -> Draft | WindowError:
        """What an earlier attempt was told of this window, or what ``ask`` tells now. Raises ``Unavailable``."""
        question = Question(read, self._engine)
        if claim.resumes and (draft := await self._earlier(claim, question)):
            return draft
        answer = await ask(question.read)
        if isinstance(answer, Draft):
            self._note(claim, question.digest, answer)
        return answer

    async def _earlier(self, claim: Claim, question: Question) -> Draft | None:
        drafts = Drafts.of(claim)
        async with drafts.looking_up:  # one window of a job at a time: however many there are, one is in memory
            if drafts.earlier is None:
                drafts.earlier = dict(await self._queue.kept(claim))
            await question.read()
        found = drafts.earlier.pop(question.digest, None)
        return DRAFT.validate_json(found) if found else None

    def _note(self, claim: Claim, asked: bytes, draft: Draft) -> None:
        drafts = Drafts.of(claim)
        drafts.unsaved[asked] = draft
        if claim.engine_seconds - drafts.saved_seconds >= self._most_unsaved:
            self._due.add(claim)
            self._any_due.set()

    async def _write(self) -> None:
        """Save the answers to claims that have so many, for ever."""
        while True:
            await self._any_due.wait()
            self._any_due = anyio.Event()
            due, self._due = self._due, set()
            for claim in due:
                await self._save(claim)

    async def _save(self, claim: Claim) -> None:
        if claim.abandoned:
            return
        try:
            await save(self._queue, claim)
        except Fenced:
            claim.abandon(Why.LEASE_LOST)
        except Unavailable as error:  # the next answer makes it due again
            log.warning("checkpoint-missed", job_id=str(claim.job.id), error=str(error))
            await anyio.sleep(PAUSE_SECONDS)


async def save(queue: JobQueue, claim: Claim) -> None:
    """Write what the store has not got yet. Raises ``Fenced``, and ``Unavailable``: then it may be tried again."""
    drafts = Drafts.of(claim)
    written, seconds = dict(drafts.unsaved), claim.engine_seconds
    if not written:
        return
    await queue.keep(claim, {asked: DRAFT.dump_json(draft).decode() for asked, draft in written.items()})
    drafts.saved_seconds = seconds
    for asked in written:
        drafts.unsaved.pop(asked, None)


def digest(window: Window, engine: EngineInfo) -> bytes:
    """Of all that an answer depends on. Blocks, for some milliseconds."""
    made = blake2b(to_json([SHAPE, engine, window.options]), digest_size=16)
    made.update(window.samples.data)
    return made.digest()
