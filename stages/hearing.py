"""How one window is heard: read until a reading passes its checks, and in parts where that leaves something out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from pipeline.claim import Claim
from stages.answers import Answer
from stages.checkpoints import Checkpoints, Read
from stages.engines import Draft, Options, Window, WindowError
from stages.engines.room import Asker, ModelRoom
from stages.messages import Bleed
from stages.missed import in_parts, missed
from stages.readings import is_silent, read
from stages.spool import Spool
from stages.windows import SpeechWindow

PARTINGS: Final = 2
"""How often a window is parted: into its pieces, and a piece into halves."""

SHORTEST_SECONDS: Final = 4.0
"""A shorter window is heard as it is: its halves would hold a word or two without a sentence."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """The windows of one track are asked for in the room, at these temperatures and ``without`` these stretches.

    What an earlier attempt was told of a window is taken from the ``checkpoints``.
    """

    room: ModelRoom
    checkpoints: Checkpoints
    claim: Claim
    track: str
    spool: Spool
    without: Sequence[Bleed]
    temperatures: tuple[float, ...]

    async def of(self, window: SpeechWindow, options: Options, partings: int = PARTINGS) -> Sequence[Answer]:
        """What was heard in a window, or in its parts if they tell more."""

        async def ask(options: Options) -> Draft | WindowError:
            return await self._ask(window, options)

        whole = Answer(window, await read(ask, options, self.temperatures))
        if not partings or not _lacks_something(whole):
            return [whole]
        parts = await self._in_parts(whole, options, partings - 1)
        return parts if _told(parts) > _told([whole]) else [whole]

    async def _in_parts(self, whole: Answer, options: Options, partings: int) -> Sequence[Answer]:
        window, draft = whole.window, whole.read.answer
        assert isinstance(draft, Draft)  # an error lacks nothing
        options = replace(options, before=None)
        if not whole.read.dropped:  # what was made up says nothing of the language
            options = replace(options, language=draft.language)
        heard: list[Answer] = []
        for part in in_parts(window, draft, await window.samples(self.spool, self.without)):
            heard += await self.of(part, options, partings)
        return heard if whole.read.dropped else [answer.with_language_of(draft) for answer in heard]

    async def _ask(self, window: SpeechWindow, options: Options) -> Draft | WindowError:
        async def read() -> Window:
            return Window(await window.samples(self.spool, self.without), options)

        async def ask(read: Read) -> Draft | WindowError:
            return await self.room.ask(read, Asker.of(self.claim, self.track))

        return await self.checkpoints.answer(self.claim, read, ask)


def _lacks_something(whole: Answer) -> bool:
    draft = whole.read.answer
    if isinstance(draft, WindowError) or whole.window.seconds < SHORTEST_SECONDS:
        return False
    made_up = whole.read.dropped and not is_silent(draft)
    return made_up or missed(whole.window, draft)


def _told(answers: Sequence[Answer]) -> int:
    """Words, or characters from an engine that gives no words; nothing where one of the parts is an error."""
    drafts = [answer.read.answer for answer in answers if isinstance(answer.read.answer, Draft)]
    return sum(len(draft.words) or len(draft.text) for draft in drafts) if len(drafts) == len(answers) else 0
