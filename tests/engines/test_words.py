"""Words and their times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.engines.words import Aligned, timed

times = st.floats(-1.0, 40.0, allow_nan=False)
words = st.builds(
    Aligned, word=st.sampled_from([" a", " b.", "。", " c?"]), start=times, end=times, probability=st.floats(-0.1, 1.1)
)


@given(st.lists(words, max_size=12), st.floats(0.0, 30.0))
def test_whatever_was_aligned_words_are_in_order_and_inside_the_window(given: list[Aligned], seconds: float) -> None:
    found = timed(given, seconds)
    borders = [0.0, *(time for word in found for time in (word.start, word.end)), seconds]
    assert borders == sorted(borders)
    assert [word.word for word in found] == [word.word for word in given]
    assert all(0 <= word.confidence <= 1 for word in found)


def test_a_word_that_starts_a_sentence_is_not_stretched_over_the_pause_before_it() -> None:
    found = timed(
        [Aligned(" So.", 2.0, 2.4, 1), Aligned(" Then", 2.4, 6.0, 1), Aligned(" we", 6.0, 6.4, 1)], seconds=10
    )
    assert [word.start for word in found] == pytest.approx([2.0, 5.2, 6.0])
    assert [word.end for word in found] == [2.4, 6.0, 6.4]


def test_a_long_word_within_a_sentence_stays_as_long_as_it_is() -> None:
    found = timed(
        [Aligned(" I", 0.0, 0.2, 1), Aligned(" sooooo", 0.2, 3.0, 1), Aligned(" do", 3.0, 3.2, 1)], seconds=10
    )
    assert (found[1].start, found[1].end) == (0.2, 3.0)
