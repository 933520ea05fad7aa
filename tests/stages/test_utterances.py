"""Utterances: one track's words are cut where the speaker pauses; nothing is lost, doubled, moved or changed."""

from __future__ import annotations

from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.transcript import Word
from stages.talk import GAP_SECONDS
from stages.turns import LONG_SECONDS, SENTENCE_ENDS, utterances

texts = st.sampled_from([" and", " so.", " why?", "你", "好。", "\u3000はい", " ", ""]) | st.text(max_size=5)
# Gap before the word, and its length: breaths, pauses, words on top of one another.
paces = st.tuples(st.sampled_from([0.0, 0.1, 0.599, 0.601, 2.0]) | st.floats(0, 9), st.floats(0, 3))


def spoken(drawn: list[tuple[str, tuple[float, float]]]) -> list[Word]:
    words: list[Word] = []
    for text, (gap, length) in drawn:
        start = (words[-1].end if words else 0.0) + gap
        words.append(Word(word=text, start=start, end=start + length, confidence=0.5))
    return words


tracks_of_words = st.lists(st.tuples(texts, paces), max_size=40).map(spoken)


def at(*times: tuple[float, float], text: str = " word") -> list[Word]:
    return [Word(word=text, start=start, end=end, confidence=0.9) for start, end in times]


@given(tracks_of_words)
def test_no_word_is_lost_doubled_moved_or_changed_save_for_the_space_before_an_utterance(words: list[Word]) -> None:
    cut = [*utterances(words)]
    assert all(cut)
    openings = {*accumulate(map(len, cut), initial=0)}
    assert [word for piece in cut for word in piece] == [
        word.model_copy(update={"word": word.word.lstrip()}) if n in openings else word for n, word in enumerate(words)
    ]


@given(tracks_of_words)
def test_an_utterance_ends_at_every_pause_and_otherwise_only_with_a_long_sentence(words: list[Word]) -> None:
    cut = [*utterances(words)]
    for piece in cut:
        assert all(after.start - before.end <= GAP_SECONDS for before, after in pairwise(piece))
    for earlier, later in pairwise(cut):
        if later[0].start - earlier[-1].end <= GAP_SECONDS:
            assert earlier[-1].end - earlier[0].start > LONG_SECONDS
            assert earlier[-1].word.endswith(SENTENCE_ENDS)


def test_a_breath_does_not_end_an_utterance_and_a_pause_does() -> None:
    words = at((0.0, 1.0), (1.5, 2.0), (2.7, 3.0))
    assert [len(piece) for piece in utterances(words)] == [2, 1]


def test_an_utterance_that_has_become_long_ends_with_its_sentence() -> None:
    sentence = [*at((0.0, 4.0), (4.0, 7.0), (7.0, 8.0)), *at((8.0, 9.0), text=" end."), *at((9.0, 10.0))]
    assert [len(piece) for piece in utterances(sentence)] == [4, 1]


def test_a_short_sentence_does_not_end_an_utterance() -> None:
    assert [len(piece) for piece in utterances(at((0.0, 1.0), (1.0, 2.0), text=" Yes."))] == [2]


def test_where_nothing_is_said_there_is_no_utterance() -> None:
    assert [*utterances([])] == []
