"""Who speaks when: what each track of a job says between two pauses, and which turns sound at the same time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from pipeline.transcript import Segment

GAP_SECONDS: Final = 0.6
"""A pause in which an utterance ends; shorter ones are breaths within a sentence."""

REMARK_SECONDS: Final = 1.0
"""The longest back-channel ("mm-hm", "yes, right"); whoever speaks longer takes the floor."""

_START, _END = attrgetter("start"), attrgetter("end")


@dataclass(frozen=True, slots=True)
class Stretch:
    """What one track says from pause to pause, however it was cut. Times are seconds on the media's clock."""

    track: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return round(self.end - self.start, 3)  # as exact as times are told


@dataclass(frozen=True, slots=True)
class Talk:
    """All that is said, in time order: by track, and of all tracks together what is longer than a remark."""

    by_track: Mapping[str, Sequence[Stretch]]
    at_length: Sequence[Stretch]

    @classmethod
    def of(cls, tracks: Mapping[str, Sequence[Segment]]) -> Talk:
        """``tracks``: the utterances of each, in time order."""
        by_track = {name: _stretches(track) for name, track in tracks.items()}
        at_length = (stretch for said in by_track.values() for stretch in said if stretch.seconds > REMARK_SECONDS)
        return cls(by_track, sorted(at_length, key=_START))

    def others(self, track: str, start: float, end: float) -> Sequence[Stretch]:
        """What is heard of other tracks than this one between these times, and however long it goes on around them."""
        others = (said for name, said in self.by_track.items() if name != track)
        return [stretch for said in others for stretch in _between(said, start, end)]

    def interruptions(self, turn: Segment) -> Iterator[Stretch]:
        """What others say at length from beginning to end while ``turn`` lasts."""
        first = bisect_right(self.at_length, turn.start, key=_START)
        last = bisect_left(self.at_length, turn.end, key=_START)
        begun = self.at_length[first:last]
        return (stretch for stretch in begun if stretch.end < turn.end and stretch.track != turn.track)


def overlaps(turns: Sequence[Segment]) -> Sequence[Sequence[int]]:
    """For each turn the places of those of other tracks that share some time with it. ``turns``: by their start."""
    found: list[list[int]] = [[] for _ in turns]
    sounding: list[int] = []  # never more than there are tracks
    for here, turn in enumerate(turns):
        sounding = [there for there in sounding if turns[there].end > turn.start]
        for there in sounding:
            if turns[there].track != turn.track and turns[there].start < turn.end:
                found[there].append(here)
                found[here].append(there)
        sounding.append(here)
    return found


def _stretches(track: Iterable[Segment]) -> Sequence[Stretch]:
    found: list[Stretch] = []
    for segment in track:
        if segment.crosstalk:
            continue  # it is said on another track, and counts there
        goes_on = found and segment.start - found[-1].end <= GAP_SECONDS
        start = found.pop().start if goes_on else segment.start
        found.append(Stretch(segment.track, start, segment.end))
    return found


def _between(said: Sequence[Stretch], start: float, end: float) -> Sequence[Stretch]:
    return said[bisect_right(said, start, key=_END) : bisect_left(said, end, key=_START)]
