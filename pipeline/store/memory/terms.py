"""The operator's face in memory."""

from __future__ import annotations

from collections.abc import Sequence

from anyio.lowlevel import checkpoint

from pipeline.store import TenantTerms
from pipeline.store.memory.tables import Tables


class MemoryTerms:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def list(self) -> Sequence[TenantTerms]:
        await checkpoint()
        return sorted((place.terms for place in self._tables.turns.places.values()), key=lambda terms: terms.tenant)

    async def set(self, terms: TenantTerms) -> None:
        await checkpoint()
        self._tables.turns.place(terms.tenant).terms = terms
        self._tables.wake(terms.tenant)  # it may run more than before
