"""A transcript as it is stored and served: tracks, segments, words."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

LABEL_CHARACTERS: Final = 128
"""The longest name of a track. A title, which a file may hold of any length, is cut there."""

JOINERS: Final = "\u200c\u200d"
"""The two characters without a shape that names are spelt with: in Persian and Hindi, and between emoji."""


class Stored(BaseModel):
    """What is kept as JSON: frozen, no unknown members, numbers that JSON can hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Word(Stored):
    """Times are seconds on the media's clock. ``word`` carries the space before it, save for a segment's first.

    ``confidence``, 0 … 1: the mean probability that the model gave its tokens; the same measure from every engine.
    """

    word: str
    start: float
    end: float
    confidence: float


class Crosstalk(Stored):
    """Whose voice a segment is, when it is not its track's own: that of the track ``source``.

    ``score``: how sure that is, 0 … 1.
    """

    source: str
    score: float


class Segment(Stored):
    """A turn of one track. ``text`` is its words joined with nothing between them.

    ``confidence``, 0 … 1: the mean of its words'; from an engine that times no words, exp(``avg_logprob``), which is
    the geometric mean over its tokens. ``avg_logprob``, ``no_speech_prob`` and ``compression_ratio`` are Whisper's own
    numbers, of the window that the turn was heard in.
    ``overlaps``: ids of the segments of other tracks that share some time with it.
    """

    id: int
    track: str
    start: float
    end: float
    text: str
    language: str | None
    confidence: float | None
    avg_logprob: float | None
    no_speech_prob: float | None
    compression_ratio: float | None
    overlaps: tuple[int, ...] = ()
    crosstalk: Crosstalk | None = None
    # no member at all when words were not asked for, rather than a null in every segment
    words: tuple[Word, ...] | None = Field(default=None, exclude_if=lambda words: words is None)


class Track(Stored):
    """One voice's place in the media: a stream, or one channel of it, or (``downmix``) everything mixed.

    ``id`` is ``stream:channel`` (channel 0 for a stream taken whole, whose ``channel`` is None if it has several);
    ``index`` its place among the tracks. Streams are audio streams, counted over all files of the job. The sound lies
    at ``start_offset`` … ``start_offset + duration`` on the media's clock, in seconds.
    """

    id: str
    index: int
    stream: int | None
    channel: int | None
    label: str | None = None
    codec: str | None = None
    sample_rate: int | None = None
    start_offset: float = 0.0
    duration: float = 0.0
    speech_seconds: float = 0.0
    language: str | None = None
    language_probability: float | None = None
    confidence: float | None = None
    status: Literal["transcribed", "silent", "duplicate", "failed"] = "transcribed"
    duplicate_of: str | None = None
    error: dict[str, Any] | None = None
    metadata: dict[str, str] = {}


class Notice(Stored):
    """A warning that travels with a result; ``code`` is stable."""

    code: str
    track: str | None = None
    detail: str


class EngineInfo(Stored):
    """What transcribed."""

    backend: str
    model: str
    device: str
    compute_type: str
    version: str


class Transcript(Stored):
    """The result of a job. All times lie in 0 … ``duration``.

    Segments are ordered by ``(start, track)``: those that start together, as ``tracks`` are.
    """

    text: str
    language: str | None
    duration: float
    processing_mode: str
    tracks: tuple[Track, ...]
    segments: tuple[Segment, ...]
    warnings: tuple[Notice, ...] = ()
    engine: EngineInfo


def speakers(tracks: Sequence[Track], segments: Iterable[Segment]) -> Mapping[str, str]:
    """Names by track id of those who are heard, each a line; none where only one is, who needs no name.

    A name is the track's label, else its title, else its id. What counts is what was heard: a track that failed may
    have words of its good windows. Where labels and titles alone would not tell the speakers apart, or one could be
    taken for another track's id, the ids stand beside all of them.
    """
    heard = {segment.track for segment in segments if segment.text.strip()}
    called = {track.id: _called(track) for track in tracks if track.id in heard}
    if len(called) < 2:
        return {}
    names = {track: name or track for track, name in called.items()}
    ids = {track.id for track in tracks}
    misleading = any(name in ids and name != track for track, name in names.items())
    if misleading or len({*names.values()}) < len(names):
        return {track: f"{name} ({track})" if name else track for track, name in called.items()}
    return names


def text_of(tracks: Sequence[Track], segments: Iterable[Segment]) -> str:
    """What was said, running on if one speaks; a labelled line a turn if several do."""
    turns = [segment for segment in segments if segment.text.strip()]
    names = speakers(tracks, turns)
    said = [(names.get(turn.track), " ".join(turn.text.split())) for turn in turns]
    return "\n".join(f"{name}: {text}" for name, text in said) if names else " ".join(text for _, text in said)


def _called(track: Track) -> str:
    """What a client calls a track, or else its file; empty where neither does."""
    return shown(track.label or "") or shown(track.metadata.get("title", "")[:LABEL_CHARACTERS])


def shown(name: str) -> str:
    """A name as one line of what can be seen; empty where nothing of it can.

    It comes from a client or a file: a terminal obeys control characters, and others turn the text around them.
    """
    line = " ".join("".join(map(_shown, name)).split())
    return line if any(unicodedata.category(character)[0] in "LNPS" for character in line) else ""


def _shown(character: str) -> str:
    match unicodedata.category(character):
        case "Cc":
            return " "
        case "Cf" if character not in JOINERS:
            return ""
        case _:
            return character
