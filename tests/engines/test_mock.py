"""The mock engine follows its script."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from pipeline.errors import ConfigError, EngineLost
from pipeline.settings import EngineSettings
from stages.engines import Draft, Options, Window, WindowError, load
from stages.engines.mock import Fault, MockEngine, Script
from tests.conformance.engine_suite import hear, run

TONE = np.sin(np.arange(32_000, dtype=np.float32))
MARKED = Window(TONE, Options(prompt="say MARK twice"))


def engine(kind: Literal["window", "batch", "lost", "hang"], times: int = 0) -> MockEngine:
    return MockEngine(Script(lines=("One two.",), faults=(Fault(mark="MARK", kind=kind, times=times),)))


def test_words_are_spread_evenly_over_the_window() -> None:
    draft = hear(MockEngine(Script(lines=("One two.",))), TONE)
    assert [(word.word, word.start, word.end) for word in draft.words] == [(" One", 0.0, 1.0), (" two.", 1.0, 2.0)]


def test_a_script_may_leave_out_the_times_of_words_and_that_shows_in_what_the_engine_can_do() -> None:
    mock = MockEngine(Script(lines=("One two.",), words=False))
    draft = hear(mock, TONE)
    assert (draft.text, draft.words) == ("One two.", ())
    assert not mock.capabilities.words


def test_different_windows_are_given_different_lines() -> None:
    mock = MockEngine(Script(lines=("One.", "Two.", "Three.")))
    assert len({hear(mock, TONE[:length]).text for length in range(16_000, 32_000, 500)}) == 3


def test_a_batch_fails_as_a_whole_when_one_window_breaks_it() -> None:
    with pytest.raises(RuntimeError, match="this batch fails"):
        run(engine("batch"), [Window(TONE), MARKED])


def test_a_device_is_lost_on_demand() -> None:
    with pytest.raises(EngineLost):
        run(engine("lost"), [MARKED])


def test_a_fault_strikes_as_often_as_the_script_says() -> None:
    mock = engine("window", times=2)
    drafts = [run(mock, [MARKED])[0] for _ in range(3)]
    assert [type(draft) for draft in drafts] == [WindowError, WindowError, Draft]


def test_a_batch_that_hangs_ends_when_it_is_cancelled() -> None:
    mock, cancel, ended = engine("hang"), threading.Event(), threading.Event()

    def lane() -> None:
        mock.run([mock.prepare(MARKED)], cancel)
        ended.set()

    thread = threading.Thread(target=lane)
    thread.start()
    assert not ended.wait(0.05)
    cancel.set()
    thread.join(timeout=10)
    assert ended.is_set()


def test_a_slow_batch_ends_at_once_when_it_is_cancelled() -> None:
    mock, cancel = MockEngine(Script(base_seconds=3600)), threading.Event()
    cancel.set()
    assert len(mock.run([mock.prepare(MARKED)], cancel)) == 1


def test_a_script_is_read_from_the_path_that_the_settings_name(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('{"lines": ["Read from a file."], "lanes": 3, "max_batch": 2}')
    mock = load(EngineSettings(backend="mock", model=str(script), max_batch=5))
    assert hear(mock, TONE).text == "Read from a file."
    assert mock.info.model == "script.json"
    assert (mock.capabilities.lanes, mock.capabilities.max_batch) == (3, 5)


@pytest.mark.parametrize("content", ["{", '{"lins": []}', '{"lines": []}'])
def test_a_script_that_is_wrong_is_refused(tmp_path: Path, content: str) -> None:
    script = tmp_path / "script.json"
    script.write_text(content)
    with pytest.raises(ConfigError, match="not a script for the mock engine"):
        load(EngineSettings(backend="mock", model=str(script)))


@pytest.mark.parametrize("asked", [{"device": "cuda"}, {"device": "mps"}, {"compute_type": "float16"}])
def test_it_has_no_device_and_computes_in_no_type(asked: dict[str, str]) -> None:
    [(name, value)] = asked.items()
    with pytest.raises(ConfigError, match=f"ENGINE__{name.upper()}={value}.*set both to auto"):
        load(EngineSettings.model_validate({"backend": "mock", "model": "mock", **asked}))
