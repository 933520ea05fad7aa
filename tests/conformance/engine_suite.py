"""What every engine promises, whatever model it runs. A test class of its own inherits these and says what to feed."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.languages import LANGUAGES
from stages.engines import Draft, Engine, Options, Window, WindowError

Clip = NDArray[np.float32]
PLAIN = Options()


def run(engine: Engine, windows: Sequence[Window]) -> list[Draft | WindowError]:
    """Prepare windows, run them in the largest batches the engine allows, and put the results in order again."""
    batches: defaultdict[Hashable, list[int]] = defaultdict(list)
    items = [engine.prepare(window) for window in windows]
    for place, item in enumerate(items):
        batches[engine.batch_key(item)].append(place)
    results: dict[int, Draft | WindowError] = {}
    for places in batches.values():
        for start in range(0, len(places), engine.capabilities.max_batch):
            batch = places[start : start + engine.capabilities.max_batch]
            drafts = engine.run([items[place] for place in batch], threading.Event())
            results.update(zip(batch, drafts, strict=True))
    return [results[place] for place in range(len(windows))]


def hear(engine: Engine, samples: Clip, options: Options = PLAIN) -> Draft:
    """What an engine hears in one window, alone."""
    (draft,) = run(engine, [Window(samples, options)])
    assert isinstance(draft, Draft), draft
    return draft


def niceness_inside(engine: Engine, window: Window) -> int:
    """That of the thread in which an engine that can be cancelled reads a window."""
    seen: set[int] = set()

    class Look(threading.Event):
        def is_set(self) -> bool:
            seen.add(os.nice(0))
            return True

    engine.run([engine.prepare(window)], Look())
    (niceness,) = seen
    return niceness


def assert_alike(some: Sequence[Draft | WindowError], others: Sequence[Draft | WindowError]) -> None:
    """The same words at the same times; probabilities to three decimals, as the last digits are those of a sum."""
    assert [_told(draft) for draft in some] == [_told(draft) for draft in others]
    assert _probabilities(some) == pytest.approx(_probabilities(others), abs=5e-4)


def _told(draft: Draft | WindowError) -> Draft | WindowError:
    if isinstance(draft, WindowError):
        return draft
    words = tuple(replace(word, confidence=0.0) for word in draft.words)
    return replace(draft, words=words, language_probability=None, avg_logprob=None, no_speech_prob=None)


def _probabilities(drafts: Sequence[Draft | WindowError]) -> list[float | None]:
    told: list[float | None] = []
    for draft in drafts:
        if isinstance(draft, Draft):
            told += [draft.language_probability, draft.avg_logprob, draft.no_speech_prob]
            told += [word.confidence for word in draft.words]
    return told


class EngineSuite:
    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError

    @pytest.fixture
    def speech(self) -> Sequence[Clip]:
        """Windows in which something is said, of different lengths."""
        raise NotImplementedError

    @pytest.fixture
    def plain(self) -> Options:
        """How ``speech`` is heard, all of which is English if a language is told here."""
        return PLAIN

    @pytest.fixture
    def broken(self) -> Window:
        """A window that the engine cannot do, with the batch key of ``speech``."""
        raise NotImplementedError

    @pytest.fixture
    def mixed(self, speech: Sequence[Clip]) -> Sequence[Window]:
        """Eight windows of different lengths and options."""
        options = [Options(), Options(prompt="A reading."), Options(beam=1), Options(language="en"), Options()]
        return [Window(speech[n % len(speech)], options[n % len(options)]) for n in range(8)]

    def test_a_window_gives_the_same_alone_and_in_company(self, engine: Engine, mixed: Sequence[Window]) -> None:
        assert_alike(run(engine, mixed), [draft for window in mixed for draft in run(engine, [window])])

    def test_words_are_in_order_inside_their_window_and_make_up_its_text(
        self, engine: Engine, speech: Sequence[Clip], plain: Options
    ) -> None:
        for clip in speech:
            window = Window(clip)
            draft = hear(engine, clip, plain)
            assert draft.text
            if not engine.capabilities.words:
                assert draft.words == ()
                continue
            times = [time for word in draft.words for time in (word.start, word.end)]
            assert times == sorted(times)
            assert times[0] >= 0
            assert times[-1] <= window.seconds
            assert "".join(word.word for word in draft.words).strip() == draft.text
            assert all(0 <= word.confidence <= 1 for word in draft.words)

    def test_numbers_are_plain_python(self, engine: Engine, speech: Sequence[Clip], plain: Options) -> None:
        draft = hear(engine, speech[0], plain)
        numbers = [draft.language_probability, draft.avg_logprob, draft.no_speech_prob, draft.compression_ratio]
        for word in draft.words:
            numbers += [word.start, word.end, word.confidence]
        assert {type(number) for number in numbers} <= {float, type(None)}

    @pytest.mark.parametrize("seconds", [0.0, 0.01, 1.0, 20.0])
    def test_digital_silence_has_no_words(self, engine: Engine, seconds: float) -> None:
        draft = hear(engine, np.zeros(round(seconds * 16_000), np.float32))
        assert (draft.text, draft.words) == ("", ())

    def test_a_language_that_is_told_is_not_detected(
        self, engine: Engine, speech: Sequence[Clip], plain: Options
    ) -> None:
        draft = hear(engine, speech[0], replace(plain, language="en"))
        assert (draft.language, draft.language_probability) == ("en", None)

    def test_a_window_that_fails_leaves_its_seven_neighbours_whole(
        self, engine: Engine, mixed: Sequence[Window], broken: Window
    ) -> None:
        others = [*mixed[:3], *mixed[4:]]
        results = run(engine, [*others[:3], broken, *others[3:]])
        assert isinstance(results.pop(3), WindowError)
        assert_alike(results, run(engine, others))

    def test_every_lane_may_run_at_once(self, engine: Engine, speech: Sequence[Clip], plain: Options) -> None:
        heard: dict[int, Draft] = {}
        lanes = [
            threading.Thread(target=lambda n=n: heard.update({n: hear(engine, speech[n % 2], plain)}))
            for n in range(engine.capabilities.lanes)
        ]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
        assert {n: draft.text for n, draft in heard.items()} == {
            n: hear(engine, speech[n % 2], plain).text for n in range(len(lanes))
        }

    def test_it_says_what_it_can_do(self, engine: Engine, speech: Sequence[Clip]) -> None:
        can = engine.capabilities
        assert can.lanes >= 1
        assert can.max_batch >= 1
        assert can.languages <= LANGUAGES
        assert can.bytes_per_item > 0
        item = engine.prepare(Window(speech[0]))
        assert engine.cost(item) >= 0
        assert hash(engine.batch_key(item)) == hash(engine.batch_key(item))
