"""Turns: what all tracks say is put in the order of a conversation; nothing is lost, doubled, moved or changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.transcript import Crosstalk, Segment
from stages.turns import BREAK_SECONDS, turns
from tests.stages.talking import conversations, utterance, words_by_track


def turned(segments: Iterable[Segment], *, words: bool = True) -> Sequence[Segment]:
    """The turns of these utterances; tracks stand in the order in which they come."""
    tracks: dict[str, list[Segment]] = defaultdict(list)
    for segment in segments:
        tracks[segment.track].append(segment)
    return turns(tracks.values(), words=words)


def told(*segments: Segment) -> list[tuple[str, str]]:
    return [(turn.track, turn.text) for turn in turned(segments)]


@given(conversations())
def test_turns_lose_double_move_and_change_no_word(segments: list[Segment]) -> None:
    assert words_by_track(turned(segments)) == words_by_track(segments)


@given(conversations())
def test_turns_are_in_order_numbered_and_made_of_their_words(segments: list[Segment]) -> None:
    found = turned(segments)
    tracks = [*dict.fromkeys(segment.track for segment in segments)]
    assert [turn.id for turn in found] == [*range(len(found))]
    assert [*found] == sorted(found, key=lambda turn: (turn.start, tracks.index(turn.track)))
    reached: dict[str, float] = {}
    for turn in found:
        words = turn.words or ()
        assert turn.text == "".join(word.word for word in words)
        assert words[0].word == words[0].word.lstrip()
        times = [time for word in words for time in (word.start, word.end)]
        assert [reached.get(turn.track, 0.0), *times] == sorted([reached.get(turn.track, 0.0), *times])
        assert (turn.start, turn.end) == (times[0], times[-1])
        reached[turn.track] = turn.end


@given(conversations())
def test_overlaps_are_all_turns_of_other_tracks_that_share_time_with_one(segments: list[Segment]) -> None:
    found = turned(segments)
    for turn in found:
        assert turn.overlaps == tuple(
            other.id
            for other in found
            if other.track != turn.track and turn.end > other.start and other.end > turn.start
        )
        assert all(turn.id in found[other].overlaps for other in turn.overlaps)


def test_turns_that_only_touch_do_not_overlap() -> None:
    ann, bob = utterance("ann", (0.0, "Yes.")), utterance("bob", (0.25, "No."))
    assert [turn.overlaps for turn in turned([ann, bob], words=False)] == [(), ()]
    instant = utterance("eve", (0.0, "Oh.")).model_copy(update={"end": 0.0, "words": None})
    assert [turn.overlaps for turn in turned([ann, instant], words=False)] == [(), ()]


@given(conversations())
def test_turns_are_the_same_with_their_words_and_without(segments: list[Segment]) -> None:
    without = [turn.model_copy(update={"words": None}) for turn in turned(segments)]
    assert [*turned(segments, words=False)] == without


@given(conversations(most=1))
def test_utterances_of_a_track_that_is_alone_are_its_turns(segments: list[Segment]) -> None:
    assert [*turned(segments)] == segments


@given(conversations())
def test_a_voice_from_another_track_and_what_has_no_words_stay_as_they_are(segments: list[Segment]) -> None:
    def strange(found: Iterable[Segment]) -> list[Segment]:
        bare = (segment.model_copy(update={"id": 0, "overlaps": ()}) for segment in found)
        return sorted((one for one in bare if one.crosstalk or not one.words), key=str)

    muted = [one.model_copy(update={"words": None}) if one.id % 3 == 2 else one for one in segments]
    assert strange(turned(muted)) == strange(muted)


@given(conversations(), conversations(most=1))
def test_a_turn_is_cut_only_in_a_pause_and_no_more_often_than_others_speak(
    others: list[Segment], alone: list[Segment]
) -> None:
    mine = [one.model_copy(update={"track": "mine"}) for one in alone]
    parted = [turn.words or () for turn in turned([*others, *mine]) if turn.track == "mine"]
    ends = {one.end for one in mine}
    cuts = [(before[-1].end, after[0].start) for before, after in pairwise(parted) if before[-1].end not in ends]
    assert all(after - before >= BREAK_SECONDS for before, after in cuts)
    assert len(cuts) <= len(others)


@given(conversations(most=1), st.lists(st.integers(0, 30_000), max_size=9))
def test_remarks_cut_nothing(alone: list[Segment], times: list[int]) -> None:
    remarks = [utterance("other", (start / 1000, "mm-hm")) for start in sorted({time // 900 * 900 for time in times})]
    mine = [turn for turn in turned([*alone, *remarks]) if turn.track != "other"]
    assert {turn.start for turn in mine} <= {segment.start for segment in alone}


def test_a_sentence_goes_on_after_a_remark_of_another() -> None:
    assert told(
        utterance("ann", (0.0, "So I went to")),
        utterance("bob", (1.2, "mm-hm")),
        utterance("ann", (2.0, "the market.")),
        utterance("bob", (2.7, "Yes.")),
        utterance("ann", (3.5, "Then home.")),
    ) == [
        ("ann", "So I went to the market."),
        ("bob", "mm-hm"),
        ("bob", "Yes."),
        ("ann", "Then home."),
    ]


@pytest.mark.parametrize(
    ("first", "remark", "second"),
    [
        (utterance("ann", (0.0, "I went home.")), utterance("bob", (1.0, "Oh.")), utterance("ann", (1.7, "And you?"))),
        (
            utterance("ann", (0.0, "I went")),
            utterance("bob", (1.0, "No no you did not")),
            utterance("ann", (2.4, "home.")),
        ),
        (utterance("ann", (0.0, "I went")), utterance("bob", (1.0, "Where?")), utterance("ann", (2.6, "home."))),
        (utterance("ann", (0.0, "mm")), utterance("bob", (0.3, "I went")), utterance("ann", (1.5, "hm"))),
        (utterance("ann", (0.0, "I went")), utterance("bob", (3.0, "Where?")), utterance("ann", (1.5, "home."))),
        (
            utterance("ann", (0.0, "I went")),
            utterance("bob", (1.0, "Où ?")),
            utterance("ann", (1.5, "là."), language="fr"),
        ),
    ],
    ids=[
        "the sentence had ended",
        "more than a remark",
        "too long a pause",
        "it was a remark itself",
        "nothing in the pause",
        "other language",
    ],
)
def test_what_a_pause_parts_stays_apart(first: Segment, remark: Segment, second: Segment) -> None:
    parted = [text for track, text in told(first, remark, second) if track == "ann"]
    assert parted == [first.text, second.text]


def test_numbers_of_joined_segments_are_weighted_by_their_words() -> None:
    [joined, _] = turned(
        [
            utterance("ann", (0.0, "one two three"), avg_logprob=-0.1, no_speech_prob=None),
            utterance("bob", (0.9, "Yes.")),
            utterance("ann", (1.5, "four"), avg_logprob=-0.5, no_speech_prob=0.4, compression_ratio=2.0),
        ]
    )
    numbers = (joined.confidence, joined.avg_logprob, joined.no_speech_prob, joined.compression_ratio)
    assert numbers == (0.9, -0.2, 0.4, 1.25)


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("ann said", "nothing", "ann said nothing"),
        ("彼は", "言った。", "彼は言った。"),
        ("他说", "好。", "他说好。"),
        ("그는", "말했다.", "그는 말했다."),
        ("ฉัน", "ไป", "ฉันไป"),
        ("彼は", "Python", "彼は Python"),
    ],
)
def test_a_space_comes_back_between_joined_words_where_the_script_has_one(before: str, after: str, text: str) -> None:
    remark = utterance("bob", (0.6, "hm"))
    assert told(utterance("ann", (0.0, before)), remark, utterance("ann", (1.2, after)))[0] == ("ann", text)


def test_a_question_that_interrupts_is_read_where_it_was_asked() -> None:
    ann = utterance("ann", (0.0, "We should buy the red one"), (1.9, "well it costs rather less than the others"))
    bob = utterance("bob", (1.4, "But what would that cost?"))
    assert told(ann, bob) == [
        ("ann", "We should buy the red one"),
        ("bob", "But what would that cost?"),
        ("ann", "well it costs rather less than the others"),
    ]
    first, other, second = turned([ann, bob])
    assert (first.overlaps, other.overlaps, second.overlaps) == ((1,), (0, 2), (1,))
    assert (first.avg_logprob, second.avg_logprob) == (ann.avg_logprob, ann.avg_logprob)


def test_the_pieces_of_a_cut_turn_are_as_sure_as_their_own_words() -> None:
    ann = utterance("ann", (0.0, "We should"), (0.8, "perhaps not buy it now"))
    words = [word.model_copy(update={"confidence": 0.4 if word.start > 0.7 else 0.9}) for word in ann.words or ()]
    bob = utterance("bob", (0.4, "But what would that cost?"))
    found = turned([ann.model_copy(update={"words": tuple(words)}), bob], words=False)
    assert [turn.confidence for turn in found if turn.track == "ann"] == [0.9, 0.4]


def test_who_ends_a_sentence_while_another_begins_is_not_cut() -> None:
    ann = utterance("ann", (0.0, "We should buy the red one"), (1.9, "or perhaps another one."))
    bob = utterance("bob", (1.4, "But what would that cost us all?"))
    assert told(ann, bob) == [("ann", ann.text), ("bob", bob.text)]
    assert [turn.overlaps for turn in turned([ann, bob])] == [(1,), (0,)]


def test_a_remark_cuts_no_turn() -> None:
    ann = utterance("ann", (0.0, "We should buy the red one"), (1.9, "or perhaps another"))
    assert told(ann, utterance("bob", (1.4, "Yes, right.")))[0] == ("ann", ann.text)


def test_who_speaks_on_while_another_speaks_is_not_chopped() -> None:
    ann = utterance("ann", (0.0, "I " * 14), (3.8, "do " * 8))
    bob = utterance("bob", (1.0, "No " * 12))
    assert told(ann, bob) == [("ann", ann.text), ("bob", bob.text)]


def test_going_on_after_a_breath_takes_nobody_s_floor() -> None:
    """Ann's two utterances are one stretch of speech, which began before Bob's."""
    ann = [utterance("ann", (0.0, "I " * 30 + "see.")), utterance("ann", (7.8, "But then again " * 4))]
    bob = utterance("bob", (5.0, "No " * 11), (8.0, "no " * 14))
    assert [track for track, _ in told(*ann, bob)] == ["ann", "bob", "ann"]


def test_a_debate_with_much_overlap_reads_as_a_debate() -> None:
    assert told(
        utterance("ann", (0.0, "Taxes are far too high"), (1.7, "and I mean for all who work in this country.")),
        utterance("bob", (1.3, "They are lower than ever"), (2.8, "in fact.")),
        utterance("eve", (1.5, "Well.")),
        utterance("ann", (5.5, "Lower than when exactly?")),
        utterance("eve", (6.1, "Please, one after the other"), (7.6, "as we agreed.")),
        utterance("bob", (7.4, "Than ten years ago I say.")),
    ) == [
        ("ann", "Taxes are far too high"),
        ("bob", "They are lower than ever in fact."),
        ("eve", "Well."),
        ("ann", "and I mean for all who work in this country."),
        ("ann", "Lower than when exactly?"),
        ("eve", "Please, one after the other as we agreed."),
        ("bob", "Than ten years ago I say."),
    ]


BLEED = Crosstalk(source="bob", score=0.9)


def test_a_voice_that_bleeds_in_neither_takes_the_floor_nor_is_a_remark() -> None:
    long = utterance("ann", (0.0, "We should buy the red one"), (1.9, "or perhaps another one"))
    assert told(long, utterance("eve", (1.4, "But what would that cost?"), crosstalk=BLEED))[0] == ("ann", long.text)
    parts = [utterance("ann", (0.0, "I went")), utterance("ann", (1.5, "home."))]
    assert len(told(*parts, utterance("eve", (0.8, "mm-hm"), crosstalk=BLEED))) == 3


def test_own_words_are_not_joined_across_another_s_voice_on_the_same_track() -> None:
    ann = [
        utterance("ann", (0.0, "I went")),
        utterance("ann", (0.8, "mm-hm"), crosstalk=BLEED),
        utterance("ann", (1.5, "home.")),
    ]
    found = turned([*ann, utterance("bob", (0.8, "mm-hm"))])
    assert [(turn.text, turn.crosstalk) for turn in found if turn.track == "ann"] == [
        ("I went", None),
        ("mm-hm", BLEED),
        ("home.", None),
    ]


def test_segments_without_words_are_ordered_as_they_are() -> None:
    ann = utterance("ann", (0.0, "We should buy the red one"), (1.9, "or perhaps another one"), words=None)
    bob = utterance("bob", (1.4, "But what would that cost?"), words=None)
    last = utterance("ann", (4.0, "Nothing."), words=None)
    assert told(bob, ann, last) == [("ann", ann.text), ("bob", bob.text), ("ann", "Nothing.")]
