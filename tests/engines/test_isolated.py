"""Lanes that are processes: what one of them costs when it ends or hangs, and that none is left behind."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import ConfigError, EngineLost
from pipeline.settings import EngineSettings
from stages.engines import BatchTooBig, CancelFlag, Draft, Engine, LaneLost, Options, Window, WindowError, load
from stages.engines.child import Order, answer
from stages.engines.device import NICENESS
from stages.engines.mock import Fault, MockEngine, Prepared, Script
from tests.conformance.engine_suite import Clip, EngineSuite, assert_alike, run

FAULTS = (
    Fault(mark="window", kind="window"),
    Fault(mark="batch", kind="batch"),
    Fault(mark="lost", kind="lost"),
    Fault(mark="hang", kind="hang"),
    Fault(mark="crash", kind="crash"),
)
SCRIPT = Script(lines=("One two three.", "Four five.", "Six"), faults=FAULTS)
STALL_SECONDS = 2.5  # so that a lane is given 2 s for a batch

NOISE: NDArray[np.float32] = np.random.default_rng(0).normal(0, 0.1, 160_000).astype(np.float32)
PLAIN = Window(NOISE)
SAID = run(MockEngine(SCRIPT), [PLAIN])


def marked(mark: str) -> Window:
    return Window(NOISE, Options(prompt=mark))


@dataclass(frozen=True)
class Isolation:
    """An engine of one lane. ``others``: processes that were there before it."""

    engine: Engine
    others: frozenset[int | None]

    @property
    def children(self) -> list[BaseProcess]:
        return [child for child in active_children() if child.pid not in self.others]

    @property
    def child(self) -> BaseProcess:
        (child,) = self.children
        return child

    def ask(self, *windows: Window, cancel: CancelFlag | None = None) -> Sequence[Draft | WindowError]:
        items = [self.engine.prepare(window) for window in windows]
        return self.engine.run(items, cancel or CancelFlag())


def isolated(settings: EngineSettings) -> Iterator[Isolation]:
    others = frozenset(child.pid for child in active_children())
    with closing(load(settings)) as engine:
        yield Isolation(engine, others)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> EngineSettings:
    model = tmp_path_factory.mktemp("mock") / "script.json"
    model.write_text(SCRIPT.model_dump_json())
    mock = EngineSettings(backend="mock", model=str(model), threads=1, stall_seconds=STALL_SECONDS)
    return mock.model_copy(update={"isolation": "process"})


@pytest.fixture(scope="module")
def lane(settings: EngineSettings) -> Iterator[Isolation]:
    """Whatever becomes of it in one test, it is there for the next one."""
    yield from isolated(settings)


@pytest.fixture
def another(settings: EngineSettings, tmp_path: Path) -> Iterator[Isolation]:
    """With a script of its own, which may go."""
    model = shutil.copy(settings.model, tmp_path)
    yield from isolated(settings.model_copy(update={"model": str(model)}))


@pytest.fixture(scope="module")
def two_lanes(settings: EngineSettings) -> Iterator[Engine]:
    with closing(load(settings.model_copy(update={"threads": 2}))) as engine:
        yield engine


@pytest.fixture(scope="module")
def isolated_base(base: Engine) -> Iterator[Engine]:
    settings = EngineSettings(backend="faster_whisper", device="cpu", isolation="process", threads=1)
    with closing(load(settings)) as engine:
        yield engine


class TestIsolatedMockEngine(EngineSuite):
    @pytest.fixture
    def engine(self, two_lanes: Engine) -> Engine:
        return two_lanes

    @pytest.fixture
    def speech(self) -> Sequence[Clip]:
        return [NOISE, NOISE[:40_000], NOISE[40_000:123_456]]

    @pytest.fixture
    def broken(self) -> Window:
        return marked("window")


@pytest.mark.weights
class TestIsolatedFasterWhisper(EngineSuite):
    @pytest.fixture
    def engine(self, isolated_base: Engine) -> Engine:
        return isolated_base

    @pytest.fixture
    def speech(self, clip: Callable[[str], Clip]) -> Sequence[Clip]:
        jfk = clip("jfk")
        return [jfk, jfk[: 4 * 16_000]]

    @pytest.fixture
    def broken(self) -> Window:
        return Window(np.full(16_000, np.nan, np.float32))

    def test_it_hears_what_the_engine_hears_in_a_thread(
        self, engine: Engine, base: Engine, speech: Sequence[Clip]
    ) -> None:
        windows = [Window(speech[0]), Window(speech[1], Options(prompt="A speech.")), Window(speech[1])]
        assert_alike(run(engine, windows), run(base, windows))

    def test_it_tells_of_the_engine_what_the_engine_tells_of_itself(self, engine: Engine, base: Engine) -> None:
        theirs = base.capabilities
        assert engine.info == base.info
        ours = replace(engine.capabilities, lanes=theirs.lanes, bytes_per_item=theirs.bytes_per_item)
        assert replace(ours, restart_seconds=0.0) == theirs
        told, costs = ([one.cost(one.prepare(Window(NOISE[:n]))) for n in (0, 160_000)] for one in (engine, base))
        assert told == pytest.approx(costs)


# ── a lane that is lost ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mark", ["crash", "hang", "lost"])
def test_a_lane_that_crashes_hangs_or_loses_its_device_is_back_for_the_next_batch(lane: Isolation, mark: str) -> None:
    lost = lane.child
    with pytest.raises(LaneLost):
        lane.ask(PLAIN, marked(mark))
    assert lane.ask(PLAIN) == SAID
    assert lane.child.pid != lost.pid


def test_a_lane_that_ends_while_nothing_runs_costs_no_batch(lane: Isolation) -> None:
    lost = lane.child
    lost.kill()
    lost.join()
    assert lane.ask(PLAIN) == SAID


def test_a_lane_that_does_not_even_listen_is_replaced(lane: Isolation) -> None:
    assert lane.child.pid
    os.kill(lane.child.pid, signal.SIGSTOP)
    with pytest.raises(LaneLost):
        lane.ask(*[PLAIN] * 8)  # more than a pipe takes without a reader
    assert lane.ask(PLAIN) == SAID


def test_lanes_that_cannot_start_again_lose_the_engine(another: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # no interpreter gets far with it
    lost = another.child
    lost.kill()
    lost.join()
    for _ in range(2):  # whoever asks
        with pytest.raises(EngineLost, match="3 times in a row"):
            another.ask(PLAIN)


def test_lanes_that_cannot_have_a_process_lose_the_engine(another: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.engines.isolated.PAUSE_SECONDS", 0.0)
    lost = another.child
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        lost.kill()
        lost.join()
        with pytest.raises(EngineLost, match="Too many open files"):
            another.ask(PLAIN)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_batch_that_cannot_be_sent_costs_itself_alone(lane: Isolation) -> None:
    with pytest.raises(Exception, match="pickle"):
        lane.ask(Window(NOISE, Options(prompt=cast("str", lambda: ""))))
    assert lane.ask(PLAIN) == SAID


# ── what crosses the pipe ─────────────────────────────────────────────────────────────────────────────────────────────


def test_an_error_of_a_batch_crosses_with_its_name_and_place_and_costs_no_lane(lane: Isolation) -> None:
    before = lane.child
    with pytest.raises(RuntimeError, match="RuntimeError: The script of the mock engine") as broken:
        lane.ask(PLAIN, marked("batch"))
    assert "mock.py" in broken.value.__notes__[0]
    assert lane.ask(PLAIN) == SAID
    assert lane.child.pid == before.pid


class NoMemory(MockEngine):
    def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        raise BatchTooBig("No memory for so many.")


def test_a_batch_too_big_crosses_as_such() -> None:
    crossed = pickle.loads(pickle.dumps(answer(NoMemory(), Order([PLAIN], CancelFlag()))))
    assert isinstance(crossed, BatchTooBig)
    assert str(crossed) == "No memory for so many."


def test_a_cancel_crosses(lane: Isolation) -> None:
    nobody_waits = CancelFlag()
    nobody_waits.set()
    (given_up,) = lane.ask(marked("hang"), cancel=nobody_waits)
    assert isinstance(given_up, WindowError)
    assert lane.ask(PLAIN) == SAID


def test_what_is_wrong_with_the_settings_ends_the_start_as_it_does_in_a_thread(settings: EngineSettings) -> None:
    wrong = settings.model_copy(update={"model": "/nowhere/script.json"})
    with pytest.raises(ConfigError) as in_a_process:
        load(wrong)
    with pytest.raises(ConfigError) as in_a_thread:
        load(wrong.model_copy(update={"isolation": "thread"}))
    assert str(in_a_process.value) == str(in_a_thread.value)


# ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lane_lets_others_go_first_and_leaves_signals_to_its_parent(lane: Isolation) -> None:
    child = lane.child
    assert child.pid
    shown = subprocess.run(["ps", "-o", "ni=", "-p", str(child.pid)], capture_output=True, check=True, text=True)
    assert int(shown.stdout) == os.nice(0) + NICENESS
    for sent_to_all in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(child.pid, sent_to_all)
    assert lane.ask(PLAIN) == SAID
    assert lane.child.pid == child.pid


def test_a_model_that_is_unloaded_takes_its_processes_with_it_and_comes_back(lane: Isolation) -> None:
    lane.engine.unload()
    assert lane.children == []
    lane.engine.reload()
    assert lane.ask(PLAIN) == SAID


def test_a_model_that_is_gone_when_it_is_to_come_back_loses_the_engine(
    another: Isolation, settings: EngineSettings, tmp_path: Path
) -> None:
    another.engine.unload()
    (tmp_path / Path(settings.model).name).unlink()
    with pytest.raises(EngineLost, match="is not a script"):
        another.engine.reload()


PARENT = """
import sys, threading
import numpy as np
from pipeline.settings import EngineSettings
from stages.engines import CancelFlag, Options, Window, load

engine = load(EngineSettings.model_validate_json(sys.argv[1]))
hanging = Window(np.zeros(16_000, np.float32), Options(prompt="hang"))
threading.Thread(target=engine.run, args=([hanging], CancelFlag()), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


def test_no_process_is_left_behind_when_their_parent_is_killed(settings: EngineSettings) -> None:
    patient = settings.model_copy(update={"threads": 2, "stall_seconds": 3600.0})
    command = [sys.executable, "-c", PARENT, patient.model_dump_json()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        # all that it started hold this pipe open, and the last of them ends it
        assert parent.communicate(timeout=30)[0] == ""
