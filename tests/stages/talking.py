"""Conversations as tests make them up: what each track says, as the transcriber hands it on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from statistics import fmean
from typing import Any

from hypothesis import strategies as st

from pipeline.transcript import Crosstalk, Segment, Word
from stages.turns import utterances

WORD_SECONDS = 0.25


def utterance(track: str, *said: tuple[float, str], **facts: Any) -> Segment:
    """Words from each of these times on, one every 0.25 s, as a segment; those after the first time go on with it."""
    words = [
        Word(word=f" {text}", start=start + n * WORD_SECONDS, end=start + (n + 1) * WORD_SECONDS, confidence=0.9)
        for start, line in said
        for n, text in enumerate(line.split())
    ]
    return _segment(track, [words[0].model_copy(update={"word": words[0].word.strip()}), *words[1:]], **facts)


def numbered(segments: Iterable[Segment]) -> list[Segment]:
    """With ids counted within each track."""
    ids: Mapping[str, count[int]] = defaultdict(count)
    return [segment.model_copy(update={"id": next(ids[segment.track])}) for segment in segments]


def words_by_track(segments: Iterable[Segment]) -> Mapping[str, Sequence[Word]]:
    """All words in the order of the segments; without the spaces before them, which tell only of segments."""
    words: dict[str, list[Word]] = defaultdict(list)
    for segment in segments:
        bare = (word.model_copy(update={"word": word.word.lstrip()}) for word in segment.words or ())
        words[segment.track].extend(bare)
    return words


def _segment(track: str, said: Sequence[Word], **facts: Any) -> Segment:
    known = {
        "language": "en",
        "confidence": round(fmean(word.confidence for word in said), 3),
        "avg_logprob": -0.1,
        "no_speech_prob": 0.0,
        "compression_ratio": 1.0,
        "words": tuple(said),
    }
    text = "".join(word.word for word in said)
    return Segment(id=0, track=track, start=said[0].start, end=said[-1].end, text=text, **{**known, **facts})


_texts = st.sampled_from([" and", " so.", " why?", " a\tb", "你", "好。", "はい", " <v>", " --> "]) | st.text(
    max_size=4
)
# Milliseconds before a word and of it: breaths, pauses, remarks, words that take no time.
_paces = st.tuples(
    st.sampled_from([0, 0, 100, 250, 600, 700, 1500, 2000, 2100]) | st.integers(0, 9000),
    st.sampled_from([0, 100, 300, 900, 1200]),
)


@st.composite
def _tracks(draw: st.DrawFn, name: str) -> list[Segment]:
    words, now = [], 0
    for text, (gap, length) in draw(st.lists(st.tuples(_texts, _paces), max_size=15)):
        start, now = now + gap, now + gap + length
        words.append(Word(word=text, start=start / 1000, end=now / 1000, confidence=draw(st.sampled_from([0.5, 0.9]))))
    voices = st.sampled_from([None, None, None, Crosstalk(source="9:9", score=0.8)])
    languages = st.sampled_from(["en", "en", "ja"])
    return [
        _segment(
            name,
            piece,
            language=draw(languages),
            crosstalk=draw(voices),
            avg_logprob=draw(st.sampled_from([None, -0.5])),
        )
        for piece in utterances(words)
    ]


@st.composite
def conversations(draw: st.DrawFn, *, most: int = 4) -> list[Segment]:
    """The utterances of up to ``most`` tracks, track by track."""
    names = draw(st.lists(st.sampled_from(["0:0", "0:1", "2:0", "10:0"]), unique=True, max_size=most))
    return numbered(segment for name in names for segment in draw(_tracks(name)))
