"""The process of one lane: it loads the engine, says hello, and answers batches until its pipe ends.

parent ── windows · CANCEL ──▶ _listen (a thread) ── orders ──▶ live ── drafts or an error ──▶ parent
"""

from __future__ import annotations

import logging
import os
import signal
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from threading import Thread
from traceback import format_exc
from typing import Final

import numpy as np

from pipeline.errors import ConfigError, EngineLost
from pipeline.settings import EngineSettings, TelemetrySettings
from pipeline.telemetry import configure_logging
from pipeline.transcript import EngineInfo
from stages.engines import BatchTooBig, CancelFlag, Capabilities, Draft, Engine, LaneLost, Window, WindowError, load
from stages.engines.allocator import give_back_freed_memory
from stages.engines.device import NICENESS

Drafts = Sequence[Draft | WindowError]

CANCEL: Final = None  # instead of a batch: nobody waits for the one that runs
IDLE_SECONDS: Final = 5.0  # without work, until freed memory is given back
LENGTHS: Final = (0.0, 30.0)  # seconds of the windows by which costs are estimated
SAMPLE_RATE: Final = 16_000  # Hz


@dataclass(frozen=True, slots=True)
class Hello:
    """What a child says first. ``costs``: engine seconds of windows of ``LENGTHS``."""

    info: EngineInfo
    capabilities: Capabilities
    costs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Order:
    windows: Sequence[Window]
    cancel: CancelFlag


def live(pipe: Connection, settings: EngineSettings, log_level: int) -> None:
    for sent_to_all in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the parent drains, and needs us meanwhile
        signal.signal(sent_to_all, signal.SIG_IGN)
    configure_logging(TelemetrySettings())
    logging.getLogger().setLevel(log_level)
    orders: SimpleQueue[Order] = SimpleQueue()
    Thread(target=_listen, args=(pipe, orders), daemon=True).start()
    try:
        engine = load(settings)
        hello = _hello(engine)
    except ConfigError as error:
        pipe.send(error)
        return
    except Exception as error:  # noqa: BLE001 -- whatever it is, the parent tells it
        pipe.send(LaneLost(f"{type(error).__name__}: {error}"))
        return
    os.nice(NICENESS)  # not before: threads that the engine started have stepped back by themselves
    pipe.send(hello)
    while True:
        answered = answer(engine, _next_order(orders))
        pipe.send(answered)
        if isinstance(answered, LaneLost):
            return


def _listen(pipe: Connection, orders: SimpleQueue[Order]) -> None:
    """Never returns. The flag of a batch that is done already may be set; nobody looks at it any more."""
    cancel = CancelFlag()
    while True:
        try:
            asked: Sequence[Window] | None = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)  # at once, whatever runs: nobody is there to be answered
        if asked is CANCEL:
            cancel.set()
        else:
            cancel = CancelFlag()
            orders.put(Order(asked, cancel))
        del asked  # or its samples would stay until the next batch


def _next_order(orders: SimpleQueue[Order]) -> Order:
    try:
        return orders.get(timeout=IDLE_SECONDS)
    except Empty:
        give_back_freed_memory()
        return orders.get()


def _hello(engine: Engine) -> Hello:
    # a tone, since an engine may know that silence costs nothing
    tones = [Window(np.sin(np.arange(int(seconds * SAMPLE_RATE))).astype(np.float32)) for seconds in LENGTHS]
    return Hello(engine.info, engine.capabilities, tuple(engine.cost(engine.prepare(tone)) for tone in tones))


def answer(engine: Engine, order: Order) -> Drafts | Exception:
    """Errors of a batch cross as text: on the other side their classes may be unknown, or ask for other arguments."""
    try:
        return _heard(engine, order.windows, order.cancel)
    except BatchTooBig as error:
        return BatchTooBig(str(error))
    except EngineLost as error:
        return LaneLost(str(error))
    except Exception as error:  # noqa: BLE001 -- an engine may raise anything; the room narrows it to a window
        broken = RuntimeError(f"{type(error).__name__}: {error}")
        broken.add_note(format_exc())
        return broken


def _heard(engine: Engine, windows: Sequence[Window], cancel: CancelFlag) -> Drafts:
    items = [engine.prepare(window) for window in windows]
    batches: defaultdict[Hashable, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        batches[engine.batch_key(item)].append(place)
    heard: dict[int, Draft | WindowError] = {}
    for places in batches.values():
        heard.update(zip(places, engine.run([items[place] for place in places], cancel), strict=True))
    return [heard[place] for place in range(len(windows))]
