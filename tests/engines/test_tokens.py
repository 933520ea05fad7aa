"""Laws of what is told before a transcript, and of how long it may get."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from stages.engines.tokens import MAX_TOKENS, PROMPT, STEP, Tokens, forbidden_run, max_length, most_tokens

WORDS = ["the", "painter", "spoke", "of", "another", "one", "unforgettably", "Leichenhalle", "ძმობის"]


@pytest.fixture(scope="module")
def vocabulary(tiny_en_weights: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(tiny_en_weights / "tokenizer.json"))


@pytest.mark.weights
@given(prompt=st.lists(st.sampled_from(WORDS), max_size=300), before=st.lists(st.sampled_from(WORDS), max_size=300))
def test_a_prompt_is_told_whole_and_then_the_end_of_what_was_said_before(
    vocabulary: tokenizers.Tokenizer, prompt: list[str], before: list[str]
) -> None:
    def encoded(text: list[str]) -> tuple[int, ...]:
        return tuple(vocabulary.encode(f" {' '.join(text)}", add_special_tokens=False).ids) if text else ()

    told = Tokens(vocabulary, multilingual=False).told(" ".join(prompt), " ".join(before))
    first, earlier = encoded(prompt)[-PROMPT:], encoded(before)
    room = min(len(earlier), PROMPT - len(first))
    kept = len(told[1:]) - len(first)
    assert told[1 : 1 + len(first)] == first
    assert told[1 + len(first) :] == earlier[len(earlier) - kept :]
    assert room - STEP < kept <= room
    assert kept == room if room < STEP else len(told) % STEP == 0


@given(start=st.integers(1, MAX_TOKENS // 2 + 3), seconds=st.floats(0, 30))
def test_ctranslate2_ends_a_text_at_its_bound_or_where_the_decoder_ends(start: int, seconds: float) -> None:
    bound = max_length(start, most_tokens(seconds))
    assert min(bound // 2, bound - start) == min(most_tokens(seconds), MAX_TOKENS - start)


@given(st.floats(0.01, 30))
def test_no_window_is_cut_where_seventy_tokens_are_spoken_a_second(seconds: float) -> None:
    assert most_tokens(seconds) >= min(MAX_TOKENS // 2, 70 * seconds)


def test_only_another_reading_may_not_repeat_itself_and_the_last_one_least_of_all() -> None:
    assert [forbidden_run(temperature) for temperature in (0.0, 0.4, 0.8, 1.6)] == [0, 4, 3, 2]
