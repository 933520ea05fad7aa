"""Which tracks a job has: what its request makes of the streams and channels that its files turn out to hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.errors import JobError, MediaTooLarge, TrackNotFound
from pipeline.jobs import JobRequest, TrackRequest
from pipeline.transcript import Notice, Track
from stages.mediafile import StreamFacts


@dataclass(frozen=True, slots=True)
class Feed:
    """Where a track's sound comes from; ``channel`` ``None``: all of them. It lies ``offset`` seconds later there."""

    file: int
    stream: int
    channel: int | None = None
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class TrackPlan:
    """A track to be. With an ``error`` it is broken before it was read.

    ``sides``: the two tracks it is instead if its channels turn out to be two people; each is decoded for itself.
    ``notices``: what is to be known of it, should it be handed on.
    """

    track: Track
    feeds: tuple[Feed, ...] = ()
    error: JobError | None = None
    sides: tuple[TrackPlan, ...] = ()
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    tracks: tuple[TrackPlan, ...]
    notices: tuple[Notice, ...] = ()

    @property
    def decoded(self) -> tuple[TrackPlan, ...]:
        """What is to be decoded: each track, or its two sides."""
        return tuple(part for plan in self.tracks for part in (plan.sides or (plan,)))


def planned(request: JobRequest, files: Sequence[Sequence[StreamFacts]], max_tracks: int) -> Plan:
    """``files``: the audio streams of each; a file that could not be opened is one that has an error.

    Raises ``TrackNotFound`` when the selected one is not there, its error when it is broken, and ``MediaTooLarge``
    when there are more than ``max_tracks``.
    """
    streams = _counted(files)
    if request.processing_mode == "downmix":
        return _downmix(streams)
    plan = _select(request, streams) if request.processing_mode == "select" else _multitrack(request, streams)
    check_count(len(plan.tracks), max_tracks)
    return plan


def check_count(count: int, max_tracks: int) -> None:
    """Raises ``MediaTooLarge`` when these are too many."""
    if count > max_tracks:
        raise MediaTooLarge(f"The recording has {count} tracks; at most {max_tracks} are taken here.")


@dataclass(frozen=True, slots=True)
class _Stream:
    """An audio stream, its ``number`` counted over all files of the job."""

    number: int
    file: int
    facts: StreamFacts
    one_of_several_files: bool

    def whole(self, wish: TrackRequest | None) -> TrackPlan:
        return self._plan(None, wish, wish.label if wish else None)

    def channel(self, channel: int, wish: TrackRequest | None) -> TrackPlan:
        return self._plan(channel, wish, wish.label if wish else None)

    def side(self, channel: int, wish: TrackRequest | None) -> TrackPlan:
        """A channel of a stream that was described as a whole: two voices never have one label."""
        return self._plan(channel, wish, f"{wish.label} {channel + 1}" if wish and wish.label else None)

    def feed(self, channel: int | None, offset: float = 0.0) -> Feed:
        alone = self.facts.channels == 1
        return Feed(self.file, self.facts.number, None if alone else channel, offset)

    @property
    def tags(self) -> dict[str, str]:
        tags = {name: value for name in ("title", "language") if (value := self.facts.tags.get(name, "und")) != "und"}
        if self.facts.layout:
            tags["layout"] = self.facts.layout
        return tags | {"file": str(self.file)} if self.one_of_several_files else tags

    def _plan(self, channel: int | None, wish: TrackRequest | None, label: str | None) -> TrackPlan:
        facts = self.facts
        track = Track(
            id=f"{self.number}:{channel or 0}",
            index=0,
            stream=self.number,
            channel=0 if facts.channels == 1 else channel,
            label=label,
            language=wish.language if wish else None,
            codec=facts.codec,
            sample_rate=facts.sample_rate,
            metadata=self.tags,
        )
        if facts.error:
            return TrackPlan(track, error=facts.error)
        return TrackPlan(track, (self.feed(channel, wish.offset_seconds if wish else 0.0),))


def _counted(files: Sequence[Sequence[StreamFacts]]) -> tuple[_Stream, ...]:
    flat = [(file, facts) for file, streams in enumerate(files) for facts in streams]
    return tuple(_Stream(number, file, facts, len(files) > 1) for number, (file, facts) in enumerate(flat))


def _downmix(streams: Sequence[_Stream]) -> Plan:
    """One track of everything: all audio streams of all files, from time 0 of each."""
    sound = [stream for stream in streams if stream.facts.error is None]
    first = sound[0]
    track = Track(
        id="downmix",
        index=0,
        stream=None,
        channel=None,
        codec=first.facts.codec,
        sample_rate=first.facts.sample_rate,
        metadata=first.tags,
    )
    feeds = tuple(stream.feed(None) for stream in sound)
    left_out = len(streams) - len(sound)
    what = "1 audio stream has" if left_out == 1 else f"{left_out} audio streams have"
    detail = f"{what} a codec that is not known here; the mix is without."
    notices = (Notice(code="stream-unsupported", detail=detail),) if left_out else ()
    return Plan((TrackPlan(track, feeds),), notices)


def _select(request: JobRequest, streams: Sequence[_Stream]) -> Plan:
    by_channel = request.split_channels == "always"
    places, index = _places(streams, by_channel=by_channel), request.track_index
    assert index is not None  # the request was refused without
    if index >= len(places):
        what = "audio channel" if by_channel else "audio stream"
        count = f"1 {what}" if len(places) == 1 else f"{len(places)} {what}s"
        raise TrackNotFound(f"The recording has {count}, counted from 0; track_index is {index}.")
    stream, channel = places[index]
    if stream.facts.error:
        raise stream.facts.error
    wish = _wishes(request).get(index)
    plan = stream.whole(wish) if channel is None else stream.channel(channel, wish)
    there = range(_describable(request, streams))
    others = _unused(_wishes(request), set(there) - {index}, f"only track {index} was selected")
    return Plan((plan,), (*_unmatched(request, streams), *others))


def _multitrack(request: JobRequest, streams: Sequence[_Stream]) -> Plan:
    plans = tuple(plan for stream in streams for plan in _tracks_of(stream, request, streams))
    numbered = (replace(plan, track=plan.track.model_copy(update={"index": index})) for index, plan in enumerate(plans))
    return Plan(tuple(numbered), _unmatched(request, streams))


def _tracks_of(stream: _Stream, request: JobRequest, streams: Sequence[_Stream]) -> Iterator[TrackPlan]:
    wishes = _wishes(request)
    if request.split_channels == "always":
        first = sum(other.facts.channels for other in streams[: stream.number])
        for channel in range(stream.facts.channels):
            yield stream.channel(channel, wishes.get(first + channel))
        return
    whole = stream.whole(wishes.get(stream.number))
    if request.split_channels == "never":
        yield whole
        return
    alone, count = len(streams) == 1, stream.facts.channels
    others = range(1, count if alone else 1)
    notices = _unused(wishes, others, "all channels are one track, which has what was given for track 0")
    if count > 2:
        notices += (_mixed(whole.track, count),)
    sides = _sides(stream, wishes, alone=alone) if count == 2 else ()
    yield replace(whole, sides=sides, notices=notices)


def _sides(stream: _Stream, wishes: Mapping[int, TrackRequest], *, alone: bool) -> tuple[TrackPlan, ...]:
    """Of a stream that is ``alone`` each channel may be described, save for its place in time: the two are compared."""
    first = wishes.get(stream.number)
    if not alone:
        return stream.side(0, first), stream.side(1, first)
    second, offset = wishes.get(1, TrackRequest(index=1)), first.offset_seconds if first else 0.0
    right = stream.channel(1, second.model_copy(update={"offset_seconds": offset}))
    if second.offset_seconds not in (0.0, offset):
        detail = "The offset given for track 1 is not used: two channels of one stream have that of track 0."
        right = replace(right, notices=(Notice(code="track-not-found", track=right.track.id, detail=detail),))
    return stream.channel(0, first), right


def _mixed(track: Track, channels: int) -> Notice:
    detail = f"Its {channels} channels are mixed; split_channels 'always' makes each a track."
    return Notice(code="channels-mixed", track=track.id, detail=detail)


def _wishes(request: JobRequest) -> Mapping[int, TrackRequest]:
    return {wish.index: wish for wish in request.tracks}


def _places(streams: Sequence[_Stream], *, by_channel: bool) -> Sequence[tuple[_Stream, int | None]]:
    """What the indexes of a request count."""
    if by_channel:
        return [(stream, channel) for stream in streams for channel in range(stream.facts.channels)]
    return [(stream, None) for stream in streams]


def _describable(request: JobRequest, streams: Sequence[_Stream]) -> int:
    """How many tracks a request could describe."""
    split = request.split_channels
    return len(_places(streams, by_channel=split == "always" or (split == "auto" and len(streams) == 1)))


def _unused(wishes: Mapping[int, TrackRequest], indexes: Iterable[int], why: str) -> tuple[Notice, ...]:
    """A warning for each of these tracks that was described."""
    return tuple(
        Notice(
            code="track-not-found",
            detail=f"The label, language or offset given for track {index} is not used: {why}.",
        )
        for index in sorted(wishes.keys() & indexes)
    )


def _unmatched(request: JobRequest, streams: Sequence[_Stream]) -> tuple[Notice, ...]:
    """A warning for each of the request's tracks that is not there."""
    count = _describable(request, streams)
    return tuple(
        Notice(
            code="track-not-found",
            detail=f"There is no track {index} for the label, language or offset given for it: "
            f"tracks are counted from 0, and the last is {count - 1}.",
        )
        for index in sorted(_wishes(request))
        if index >= count
    )
