"""An engine whose lanes are processes: one that crashes or hangs costs its batch, and nothing else.

    room ─ run(batch) ─▶ Isolated ◀─ ready ── _Lane (a thread) ── starts ──▶ child: the engine, with one lane
                             ╰────── windows and drafts, over a pipe ──────────────╯

A lane keeps a child: it hands it over when its engine is loaded, waits for its end, and starts the next one. A child
has the weights to itself, so memory grows with the lanes. It ends when its pipe does, and so with a parent that was
killed, unless it is stopped itself or its native code never lets Python go on. What is asked crosses as samples, not
features: a window whose child is gone can be asked again.

Measured on two busy cores: eight windows of 30 s cross in 7 to 8 ms and one in 2 to 4, where the engine needs seconds.
A child with base in int8 holds 0.39 GB when loaded, 0.45 at work, 0.21 when it has been idle.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Hashable, Sequence
from dataclasses import replace
from multiprocessing import connection, get_context
from queue import SimpleQueue
from threading import Event, Lock, Thread, Timer
from time import monotonic
from typing import Final

import numpy as np
import structlog

from pipeline.errors import ConfigError, EngineLost
from pipeline.settings import EngineSettings, cores
from stages.engines import LOADING_SECONDS, CancelFlag, LaneLost, Window
from stages.engines.child import CANCEL, LENGTHS, SAMPLE_RATE, Drafts, Hello, live

log = structlog.get_logger()

SPAWN: Final = get_context("spawn")  # a fork would copy locks that other threads hold, and is not safe on a Mac at all
PATIENCE: Final = 0.8  # of ENGINE__STALL_SECONDS: a lane that hangs is replaced before /livez gives up the service
ATTEMPTS: Final = 3  # at starting a child, in a row
PAUSE_SECONDS: Final = 2.0  # between attempts: a shortage of memory or of open files often passes
CANCEL_SECONDS: Final = 0.05  # until a child hears of a cancel; an answer is not delayed by it
ENDING_SECONDS: Final = 5.0  # for a child that was killed: far more than it takes, unless its device holds it
WINDOW_BYTES: Final = 4 * 30 * SAMPLE_RATE


def load(settings: EngineSettings) -> Isolated:
    isolated = Isolated(settings)
    try:
        isolated.start()
    except BaseException:
        isolated.close()
        raise
    return isolated


class Isolated:
    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._lanes: list[_Lane] = []
        self._ready: SimpleQueue[_Child | ConfigError | EngineLost] = SimpleQueue()
        atexit.register(self.close)  # multiprocessing ends its children by SIGTERM, which ours ignore, and joins them

    def start(self) -> None:
        """Raises ``ConfigError`` as the engine itself does."""
        hello = self._open(1)  # its device says how many there can be
        self.info = hello.info
        lanes = (self._settings.threads or cores()) if hello.info.device == "cpu" else 1
        self.capabilities = replace(
            hello.capabilities,
            lanes=lanes,
            bytes_per_item=WINDOW_BYTES + hello.capabilities.bytes_per_item,
            restart_seconds=LOADING_SECONDS,
        )
        self._costs = hello.costs
        self._open(lanes - 1)

    def prepare(self, window: Window) -> Window:
        return window

    def batch_key(self, item: Window) -> Hashable:
        """What most engines want alike; the child divides a batch further where its own wants more."""
        options = item.options
        return options.beam, options.temperature, options.short, options.prompt

    def cost(self, item: Window) -> float:
        return float(np.interp(item.seconds, LENGTHS, self._costs))

    def run(self, batch: Sequence[Window], cancel: CancelFlag) -> Drafts:
        """Raises ``LaneLost`` also for a batch that takes longer than ``PATIENCE`` of the time to a stall."""
        try:
            child = self._next_ready()
        except ConfigError as error:
            raise EngineLost(str(error)) from error
        answer = child.ask(batch, cancel, PATIENCE * self._settings.stall_seconds)
        if isinstance(answer, LaneLost):
            child.kill()
        else:
            self._ready.put(child)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def unload(self) -> None:
        for lane in self._lanes:
            lane.end()
        self._lanes, self._ready = [], SimpleQueue()

    def reload(self) -> None:
        try:
            self._open(self.capabilities.lanes)
        except ConfigError as error:
            raise EngineLost(str(error)) from error

    def close(self) -> None:
        atexit.unregister(self.close)
        self.unload()

    def _open(self, more: int) -> Hello:
        """Start ``more`` lanes, and wait until all are ready."""
        self._lanes += [_Lane(self._settings, self._ready) for _ in range(more)]
        children = [self._next_ready() for _ in self._lanes]
        for child in children:
            self._ready.put(child)
        return children[0].hello

    def _next_ready(self) -> _Child:
        """Waits as long as there may be one. Raises ``ConfigError`` or ``EngineLost`` once a lane has given up."""
        while True:
            found = self._ready.get()
            if isinstance(found, Exception):
                self._ready.put(found)  # for whoever waits besides
                raise found
            if found.is_alive():
                return found


class _Lane:
    def __init__(self, settings: EngineSettings, ready: SimpleQueue[_Child | ConfigError | EngineLost]) -> None:
        self._settings = settings.model_copy(update={"isolation": "thread", "threads": 1})
        self._ready = ready
        self._child: _Child | None = None
        self._greeted = False
        self._over = Event()
        self._changing = Lock()
        self._thread = Thread(target=self._keep, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Kill the child: it holds nothing but memory, which the system takes back."""
        with self._changing:
            self._over.set()
            if self._child:
                self._child.kill()
        self._thread.join(ENDING_SECONDS)

    def _keep(self) -> None:
        failed = 0
        while not self._over.is_set():
            try:
                child = self._start()
            except ConfigError as error:
                self._ready.put(error)
                return
            except (LaneLost, OSError) as error:
                if self._over.is_set():
                    return
                failed += 1
                if failed == ATTEMPTS:
                    self._ready.put(EngineLost(f"A lane could not be started {ATTEMPTS} times in a row: {error}"))
                    return
                log.warning("lane-not-started", reason=str(error))
                self._over.wait(PAUSE_SECONDS)
            else:
                failed = 0
                self._ready.put(child)
                exit_code = child.wait()
                if not self._over.is_set():
                    log.warning("lane-ended", exit_code=exit_code)

    def _start(self) -> _Child:
        """One that is ready. Raises ``ConfigError``; ``LaneLost`` or ``OSError``, where trying again may help."""
        with self._changing:
            if self._over.is_set():
                raise LaneLost("the lane is over")
            self._child = child = _Child(self._settings)
        try:
            # the first one may have weights to download, which takes as long as it takes
            child.greet(LOADING_SECONDS / ATTEMPTS if self._greeted else None)
        except BaseException:
            child.kill()
            child.wait()
            raise
        self._greeted = True
        return child


class _Child:
    """One process, from the parent's side. One thread at a time asks."""

    hello: Hello

    def __init__(self, settings: EngineSettings) -> None:
        self._pipe, theirs = SPAWN.Pipe()
        log_level = logging.getLogger().level
        self._process = SPAWN.Process(target=live, args=(theirs, settings, log_level), daemon=True)
        self._process.start()
        theirs.close()  # so that the pipe ends with the child

    def greet(self, seconds: float | None) -> None:
        """Until its engine is loaded. Raises ``ConfigError`` or ``LaneLost`` when that will not be, or not in time."""
        try:
            if not self._pipe.poll(seconds):
                raise LaneLost(f"its process did not load the engine in {seconds:g} s")
            told: Hello | ConfigError | LaneLost = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise LaneLost("its process ended without a word") from error
        if not isinstance(told, Hello):
            raise told
        self.hello = told

    def ask(self, batch: Sequence[Window], cancel: CancelFlag, seconds: float) -> Drafts | Exception:
        """``LaneLost``: it ended, or did not answer in time and was killed. Where this raises, it is killed too."""
        give_up_at = monotonic() + seconds
        watchdog = Timer(seconds, self.kill)  # a send waits as well, until the child reads
        try:
            watchdog.start()
            self._pipe.send(batch)
            while not self._pipe.poll(CANCEL_SECONDS):
                if cancel.is_set():
                    self._pipe.send(CANCEL)
                    break
            answer: Drafts | Exception = self._pipe.recv()
            return answer
        except (EOFError, OSError):
            hung = monotonic() >= give_up_at
            return LaneLost(f"A lane did not answer in {seconds:g} s." if hung else "The process of a lane ended.")
        except BaseException:
            self.kill()
            raise
        finally:
            watchdog.cancel()

    def is_alive(self) -> bool:
        return not connection.wait([self._process.sentinel], 0)

    def wait(self) -> int | None:
        """Until it has ended; the exit code."""
        self._process.join()
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()
