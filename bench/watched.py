"""An engine with a stopwatch: the same answers, and when it ran which batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter, process_time
from typing import Any

from pipeline.transcript import EngineInfo
from stages.engines import CancelFlag, Capabilities, Draft, Engine, Window, WindowError


@dataclass(frozen=True, slots=True)
class Batch:
    """One call of ``run``; times in seconds of ``perf_counter``."""

    start: float
    end: float
    windows: int

    def share(self, since: float, until: float) -> float:
        """How much of it lies between the two times: 0 … 1."""
        return max(0.0, min(self.end, until) - max(self.start, since)) / (self.end - self.start)


class Watched:
    """``batches`` and the prepared ``items`` since it was made.

    Stricter than the room's own statistics: a lane that waits for its turn on the event loop is not busy here.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.batches: list[Batch] = []
        self.items: list[Any] = []

    @property
    def capabilities(self) -> Capabilities:
        return self._engine.capabilities

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def prepare(self, window: Window) -> Any:
        item = self._engine.prepare(window)
        self.items.append(item)
        return item

    def batch_key(self, item: Any) -> Hashable:
        return self._engine.batch_key(item)

    def cost(self, item: Any) -> float:
        return self._engine.cost(item)

    def run(self, batch: Sequence[Any], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        start = perf_counter()
        try:
            return self._engine.run(batch, cancel)
        finally:
            self.batches.append(Batch(start, perf_counter(), len(batch)))

    def unload(self) -> None:
        self._engine.unload()

    def reload(self) -> None:
        self._engine.reload()

    def close(self) -> None:
        self._engine.close()

    def filled(self, until: float) -> float:
        """When the first batch began that is as full as they get, if that was in the first half of the time ``until``
        then. An engine that is not filled by then is not well fed, and all of its time counts."""
        first, fullest = self.batches[0].start, max(batch.windows for batch in self.batches)
        full = min(batch.start for batch in self.batches if batch.windows == fullest)
        return full if full - first <= (until - first) / 2 else first

    def busy(self, since: float, until: float) -> float:
        """The share of the time that its lanes worked."""
        worked = sum(batch.share(since, until) * (batch.end - batch.start) for batch in self.batches)
        return worked / (until - since) / self.capabilities.lanes

    def seconds(self) -> float:
        """How long its lanes worked, summed over them."""
        return sum(batch.end - batch.start for batch in self.batches)

    def rate(self, since: float, until: float) -> float:
        """Windows a second; of a batch that lies partly outside, that part is left out."""
        return sum(batch.share(since, until) * batch.windows for batch in self.batches) / (until - since)


@dataclass(frozen=True, slots=True)
class Alone:
    """What an engine does with nothing around it: windows a second, and CPU seconds a window."""

    rate: float
    cpu: float


def alone(engine: Engine, items: Sequence[Any]) -> Alone:
    """These prepared items, in batches as full as can be, by a thread for each lane."""
    alike: defaultdict[Hashable, list[Any]] = defaultdict(list)
    for item in items:
        alike[engine.batch_key(item)].append(item)
    size = engine.capabilities.max_batch
    batches = [group[n : n + size] for group in alike.values() for n in range(0, len(group), size)]
    began, cpu = perf_counter(), process_time()
    with ThreadPoolExecutor(engine.capabilities.lanes) as lanes:
        list(lanes.map(partial(engine.run, cancel=CancelFlag()), batches))
    return Alone(len(items) / (perf_counter() - began), (process_time() - cpu) / len(items))
