"""One engine, or its library, on the short clips, in a process of its own: `python -m bench.lone`.

So each has its memory to itself, and what one sets for the whole process does not reach another.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from time import perf_counter, process_time
from typing import Any, Final

from bench import Unmeasured
from bench.children import told
from bench.clips import Clip, short_clips
from bench.libraries import LIBRARIES
from pipeline.settings import EngineSettings
from stages.engines import CancelFlag, Draft, Engine, Options, Window, WindowError, load, weights
from stages.engines.catalogue import FORM_OF_BACKEND

FIRST: Final = 4  # clips before those that count
UNIT: Final = 1024 if sys.platform == "linux" else 1  # of getrusage's resident size, in bytes


@dataclass(frozen=True, slots=True)
class Task:
    """``batch`` 0: the engine's library, called by so many ``threads`` with further ``options``."""

    backend: str
    model: str
    beam: int = 5
    batch: int = 0
    short: bool = False
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """``load``, ``wall``, ``cpu`` in seconds; the last two for all clips. ``peak``: resident bytes."""

    load: float
    wall: float
    cpu: float
    peak: int
    texts: Sequence[str]


def done(task: Task) -> Done:
    """Raises ``Unmeasured`` when it fails."""
    return Done(**told(task.backend, "bench.lone", json.dumps(asdict(task))))


def _do(task: Task) -> Done:
    began = perf_counter()
    if not task.batch:
        found = weights.find(task.model, EngineSettings(), FORM_OF_BACKEND[task.backend])
        hear = LIBRARIES[task.backend](found, task.beam, **task.options)
        return _measured(perf_counter() - began, lambda clips: _called(hear, clips, task.threads))
    asked = EngineSettings.model_validate(
        {"backend": task.backend, "model": task.model, "max_batch": task.batch, "device": "cpu"}
    )
    with closing(load(asked)) as engine:
        return _measured(perf_counter() - began, lambda clips: _run(engine, clips, task))


def _measured(load: float, work: Callable[[Sequence[Clip]], Sequence[str]]) -> Done:
    """A first few are not counted: with them is made what is made when first needed."""
    clips = short_clips()
    work(clips[:FIRST])
    began, cpu = perf_counter(), process_time()
    texts = work(clips)
    wall, cpu = perf_counter() - began, process_time() - cpu
    return Done(load, wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT, texts)


def _called(hear: Callable[..., str], clips: Sequence[Clip], threads: int) -> Sequence[str]:
    with ThreadPoolExecutor(threads) as workers:
        return list(workers.map(lambda clip: hear(clip.sound, clip.language), clips))


def _run(engine: Engine, clips: Sequence[Clip], task: Task) -> Sequence[str]:
    """Prepared and run by a thread for each lane, in batches as full as can be."""
    texts: dict[int, str] = {}

    def run(batch: Sequence[tuple[int, Any]]) -> None:
        drafts = engine.run([item for _, item in batch], CancelFlag())
        texts.update({place: _text(draft) for (place, _), draft in zip(batch, drafts, strict=True)})

    with ThreadPoolExecutor(engine.capabilities.lanes) as lanes:
        windows = [Window(clip.sound, Options(clip.language, beam=task.beam, short=task.short)) for clip in clips]
        items = list(lanes.map(engine.prepare, windows))
        list(lanes.map(run, _batches(engine, items)))
    return [texts[place] for place in range(len(clips))]


def _text(draft: Draft | WindowError) -> str:
    if isinstance(draft, WindowError):
        raise Unmeasured(draft.detail)
    return draft.text


def _batches(engine: Engine, items: Sequence[Any]) -> Sequence[Sequence[tuple[int, Any]]]:
    alike: defaultdict[Hashable, list[tuple[int, Any]]] = defaultdict(list)
    for place, item in enumerate(items):
        alike[engine.batch_key(item)].append((place, item))
    size = engine.capabilities.max_batch
    return [group[n : n + size] for group in alike.values() for n in range(0, len(group), size)]


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    print(json.dumps(asdict(_do(Task(**json.loads(sys.argv[1]))))))
