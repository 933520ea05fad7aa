"""The five kinds of stage. Each has one method to write; its class line says its arity.

    Source[Out]      claims()              yields   a claim and its first message
    Map[In, Out]     handle(claim, item)   returns  one message for the next stage
    Split[In, Out]   handle(claim, item)   yields   many
    Gather[In, Out]  handle(claim, item)   returns  one when complete, else None
    Sink[In]         settle(claim, item)   sees     every result and every Failure

A stage neither logs, times, retries nor catches: ``pipeline.chain`` does that once for all. It raises to fail the job.
It keeps no state between items: what must wait, waits in ``claim.held`` and dies with the claim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, ClassVar, Generic, TypeVar

from pipeline.claim import Claim, Failure

In = TypeVar("In")
Out = TypeVar("Out")


class Lifecycle:
    """What every kind of stage shares: a name, and what must be open while the chain runs."""

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    def running(self) -> AbstractAsyncContextManager[Any]:
        """Entered before the first item and left after the last (an HTTP client, the model room)."""
        return nullcontext()


class Stage(Lifecycle, ABC, Generic[In, Out]):
    """``transient`` names errors after which the chain calls the stage again with the same item, up to ``tries`` times.

    An item that has already put out a message is never tried again in place.
    """

    transient: ClassVar[tuple[type[Exception], ...]] = ()
    tries: ClassVar[int] = 3

    @abstractmethod
    def feed(self, claim: Claim, item: In) -> AsyncGenerator[Out, None]:
        """All that this stage makes of ``item``, whatever its kind."""


class Map(Stage[In, Out]):
    @abstractmethod
    async def handle(self, claim: Claim, item: In) -> Out: ...

    async def feed(self, claim: Claim, item: In) -> AsyncGenerator[Out, None]:
        yield await self.handle(claim, item)


class Split(Stage[In, Out]):
    """Must be followed by a Gather: a claim ends once, with one result."""

    @abstractmethod
    def handle(self, claim: Claim, item: In) -> AsyncGenerator[Out, None]: ...

    def feed(self, claim: Claim, item: In) -> AsyncGenerator[Out, None]:
        return self.handle(claim, item)


class Gather(Stage[In, Out]):
    @abstractmethod
    async def handle(self, claim: Claim, item: In) -> Out | None: ...

    async def feed(self, claim: Claim, item: In) -> AsyncGenerator[Out, None]:
        if (out := await self.handle(claim, item)) is not None:
            yield out


class Source(Lifecycle, ABC, Generic[Out]):
    @abstractmethod
    def claims(self) -> AsyncIterator[tuple[Claim, Out]]:
        """Yield claims for as long as there is work; the chain calls it again, with backoff, when it raises.

        Between taking a claim and yielding it there must be no checkpoint: what is not yielded cannot be given back.
        """

    async def admit(self, claim: Claim) -> None:
        """Wait until work on a claim that was yielded may begin. No other is asked for meanwhile."""


class Sink(Lifecycle, ABC, Generic[In]):
    """``transient`` names errors over which the chain insists for as long as the lease holds; over others ``tries``."""

    transient: ClassVar[tuple[type[Exception], ...]] = ()
    tries: ClassVar[int] = 3

    @abstractmethod
    async def settle(self, claim: Claim, item: In | Failure) -> None:
        """Make the end of this attempt durable. Called again when it raises, in the end with a Failure instead."""
