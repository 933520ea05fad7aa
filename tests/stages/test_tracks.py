"""Tracks: what a request makes of the streams and channels that are there."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import MediaCorrupt, MediaTooLarge, MediaUnsupported, TrackNotFound
from pipeline.jobs import JobRequest
from stages.mediafile import StreamFacts
from stages.tracks import Feed, Plan, planned

MONO, STEREO = StreamFacts(0, "aac", 48_000, 1, "mono"), StreamFacts(0, "aac", 48_000, 2, "stereo")
SURROUND = StreamFacts(0, "ac3", 48_000, 6, "5.1")
BROKEN = StreamFacts(0, error=MediaUnsupported("No decoder."))


def plan(*files: tuple[StreamFacts, ...], max_tracks: int = 32, **request: Any) -> Plan:
    asked = {"processing_mode": "multitrack", **request}
    return planned(JobRequest.model_validate(asked), files, max_tracks)


def file(*streams: StreamFacts) -> tuple[StreamFacts, ...]:
    return tuple(
        StreamFacts(number, facts.codec, facts.sample_rate, facts.channels, facts.layout, facts.tags, facts.error)
        for number, facts in enumerate(streams)
    )


def ids(found: Plan) -> list[str]:
    return [part.track.id for part in found.decoded]


def labels(found: Plan) -> list[str | None]:
    return [part.track.label for part in found.decoded]


def test_always_makes_a_track_of_every_channel() -> None:
    found = plan(file(MONO, STEREO, SURROUND), split_channels="always")
    assert ids(found) == ["0:0", "1:0", "1:1", *(f"2:{channel}" for channel in range(6))]
    assert [track.feeds for track in found.tracks[:3]] == [(Feed(0, 0),), (Feed(0, 1, 0),), (Feed(0, 1, 1),)]
    assert [track.track.index for track in found.tracks] == list(range(9))


def test_never_takes_every_stream_whole() -> None:
    found = plan(file(MONO, STEREO), split_channels="never")
    assert [(part.track.id, part.track.channel) for part in found.tracks] == [("0:0", 0), ("1:0", None)]
    assert [track.feeds for track in found.tracks] == [(Feed(0, 0),), (Feed(0, 1),)]


def test_auto_leaves_open_only_what_streams_of_two_channels_are() -> None:
    found = plan(file(MONO, STEREO, SURROUND))
    assert [len(track.sides) for track in found.tracks] == [0, 2, 0]
    assert ids(found) == ["0:0", "1:0", "1:1", "2:0"]


def test_streams_are_counted_through_all_files() -> None:
    found = plan(file(MONO, MONO), file(MONO), split_channels="never")
    assert [(part.track.id, part.track.stream, part.feeds[0].file) for part in found.tracks] == [
        ("0:0", 0, 0),
        ("1:0", 1, 0),
        ("2:0", 2, 1),
    ]
    assert [part.track.metadata["file"] for part in found.tracks] == ["0", "0", "1"]


def test_a_track_keeps_what_its_file_says_of_it() -> None:
    tags = {"title": "Mic 1", "language": "deu", "encoder": "x"}
    [track] = plan((StreamFacts(3, "opus", 48_000, 1, "mono", tags),)).tracks
    assert (track.track.codec, track.track.sample_rate) == ("opus", 48_000)
    assert track.track.metadata == {"title": "Mic 1", "language": "deu", "layout": "mono"}
    assert plan((StreamFacts(3, tags={"language": "und"}),)).tracks[0].track.metadata == {}


def test_what_a_client_says_of_a_stream_goes_with_its_track() -> None:
    wish = {"index": 1, "label": "guest", "language": "de", "offset_seconds": -2.5}
    _, guest = plan(file(MONO, MONO), tracks=[wish]).tracks
    assert (guest.track.label, guest.track.language, guest.feeds) == ("guest", "de", (Feed(0, 1, offset=-2.5),))


def test_under_always_a_client_describes_channels() -> None:
    found = plan(file(MONO, STEREO), split_channels="always", tracks=[{"index": 2, "label": "right"}])
    assert labels(found) == [None, None, "right"]


def test_under_auto_a_client_describes_the_channels_of_a_single_stream() -> None:
    found = plan(file(STEREO), tracks=[{"index": 0, "label": "agent"}, {"index": 1, "label": "customer"}])
    assert labels(found) == ["agent", "customer"]


def test_what_is_said_of_the_first_channel_counts_for_a_stream_that_stays_whole_and_the_rest_is_a_warning() -> None:
    wishes = [{"index": 0, "label": "agent", "language": "de"}, {"index": 1, "label": "customer"}]
    [track] = plan(file(STEREO), tracks=wishes).tracks
    assert (track.track.label, track.track.language) == ("agent", "de")
    [notice] = track.notices
    assert notice.code == "track-not-found"
    assert "given for track 1 is not used" in notice.detail
    assert [side.notices for side in track.sides] == [(), ()]


@pytest.mark.parametrize("wishes", [[(0, 5.0)], [(0, 5.0), (1, 0.0)], [(0, 5.0), (1, 5.0)]])
def test_the_channels_of_a_stream_lie_where_the_first_one_is_put(wishes: list[tuple[int, float]]) -> None:
    tracks = [{"index": index, "offset_seconds": offset} for index, offset in wishes]
    [track] = plan(file(STEREO), tracks=tracks).tracks
    assert [part.feeds[0].offset for part in (track, *track.sides)] == [5.0, 5.0, 5.0]
    assert [side.notices for side in track.sides] == [(), ()]


def test_a_channel_that_is_to_lie_elsewhere_than_the_first_is_a_warning() -> None:
    [track] = plan(file(STEREO), tracks=[{"index": 1, "offset_seconds": 3.0}]).tracks
    assert [part.feeds[0].offset for part in (track, *track.sides)] == [0.0, 0.0, 0.0]
    [notice] = track.sides[1].notices
    assert (notice.code, notice.track) == ("track-not-found", "0:1")
    assert notice.detail.startswith("The offset given for track 1 is not used")


def test_under_always_each_channel_lies_where_its_own_offset_puts_it() -> None:
    found = plan(file(STEREO), split_channels="always", tracks=[{"index": 1, "offset_seconds": 3.0}])
    assert [track.feeds[0].offset for track in found.tracks] == [0.0, 3.0]


def test_more_than_two_channels_are_mixed_under_auto_with_a_warning() -> None:
    wishes = [{"index": index, "label": f"mic {index}"} for index in range(6)]
    [track] = plan(file(SURROUND), tracks=wishes).tracks
    assert track.track.label == "mic 0"
    *unused, mixed = track.notices
    assert [re.findall(r"given for track (\d) is not used", notice.detail) for notice in unused] == [
        [str(index)] for index in range(1, 6)
    ]
    assert (mixed.code, mixed.track) == ("channels-mixed", "0:0")
    assert "6 channels are mixed; split_channels 'always'" in mixed.detail


def test_of_several_streams_each_description_is_used() -> None:
    wishes = [{"index": index, "label": str(index)} for index in range(3)]
    found = plan(file(STEREO, SURROUND, MONO), tracks=wishes)
    assert [track.track.label for track in found.tracks] == ["0", "1", "2"]
    assert [[notice.code for notice in track.notices] for track in found.tracks] == [[], ["channels-mixed"], []]
    assert found.notices == ()


def test_what_is_mixed_because_a_client_asked_for_it_is_no_warning() -> None:
    [track] = plan(file(SURROUND), split_channels="never").tracks
    assert track.notices == ()


def test_of_a_stream_that_is_selected_whole_the_description_of_its_other_channel_is_a_warning() -> None:
    found = plan(file(STEREO), processing_mode="select", track_index=0, tracks=[{"index": 1, "label": "b"}])
    assert found.tracks[0].track.label is None
    assert [notice.detail for notice in found.notices] == [
        "The label, language or offset given for track 1 is not used: only track 0 was selected."
    ]


def test_descriptions_of_tracks_that_were_not_selected_are_a_warning() -> None:
    wishes = [{"index": 0, "label": "a"}, {"index": 1, "label": "b"}, {"index": 7, "label": "c"}]
    found = plan(file(MONO, MONO), processing_mode="select", track_index=1, tracks=wishes)
    assert found.tracks[0].track.label == "b"
    assert [notice.detail.partition(":")[0] for notice in found.notices] == [
        "There is no track 7 for the label, language or offset given for it",
        "The label, language or offset given for track 0 is not used",
    ]


def test_what_is_said_of_the_only_stream_alone_may_mean_the_whole() -> None:
    found = plan(file(STEREO), tracks=[{"index": 0, "label": "interview"}])
    assert found.tracks[0].track.label == "interview"
    assert labels(found) == ["interview", None]


def test_two_voices_of_a_labelled_stream_can_be_told_apart() -> None:
    found = plan(file(MONO, STEREO), tracks=[{"index": 1, "label": "call"}])
    assert found.tracks[1].track.label == "call"
    assert labels(found) == [None, "call 1", "call 2"]


@pytest.mark.parametrize(("split", "last"), [("always", 3), ("auto", 1), ("never", 1)])
def test_descriptions_of_tracks_that_are_not_there_are_a_warning(split: str, last: int) -> None:
    wishes = [{"index": last, "label": "here"}, {"index": last + 1, "label": "nowhere"}]
    [notice] = plan(file(STEREO, STEREO), split_channels=split, tracks=wishes).notices
    assert notice.code == "track-not-found"
    assert f"no track {last + 1} for the label" in notice.detail
    assert f"the last is {last}." in notice.detail
    assert "nowhere" not in notice.detail


@pytest.mark.parametrize(
    ("split", "index", "expected"),
    [("auto", 1, ("1:0", None)), ("never", 1, ("1:0", None)), ("auto", 0, ("0:0", 0)), ("always", 2, ("1:1", 1))],
)
def test_select_takes_one_and_never_waits(split: str, index: int, expected: tuple[str, int | None]) -> None:
    found = plan(file(MONO, STEREO), processing_mode="select", track_index=index, split_channels=split)
    [track] = found.tracks
    assert (track.track.id, track.track.channel) == expected
    assert track.track.index == 0
    assert not track.sides


@pytest.mark.parametrize(
    ("streams", "split", "said"),
    [
        ([MONO, STEREO], "auto", "2 audio streams"),
        ([MONO, STEREO], "always", "3 audio channels"),
        ([STEREO], "never", "1 audio stream"),
        ([MONO], "always", "1 audio channel"),
    ],
)
def test_select_says_how_many_there_are(streams: list[StreamFacts], split: str, said: str) -> None:
    with pytest.raises(TrackNotFound, match=f"has {said}, counted from 0; track_index is 7"):
        plan(file(*streams), processing_mode="select", track_index=7, split_channels=split)


def test_a_broken_stream_is_one_track_of_its_own_and_cannot_be_selected() -> None:
    found = plan(file(MONO, BROKEN), split_channels="always")
    assert [(part.track.id, part.error) for part in found.tracks] == [("0:0", None), ("1:0", BROKEN.error)]
    with pytest.raises(MediaUnsupported, match="No decoder"):
        plan(file(MONO, BROKEN), processing_mode="select", track_index=1)


def test_a_file_that_cannot_be_opened_takes_the_place_of_one_stream() -> None:
    found = plan(file(MONO), (StreamFacts(0, error=MediaCorrupt()),), file(MONO))
    assert ids(found) == ["0:0", "1:0", "2:0"]
    assert isinstance(found.tracks[1].error, MediaCorrupt)


def test_more_tracks_than_are_taken_are_told_with_both_numbers() -> None:
    with pytest.raises(MediaTooLarge, match="6 tracks; at most 5"):
        plan(file(SURROUND), split_channels="always", max_tracks=5)
    assert len(plan(file(SURROUND), split_channels="always", max_tracks=6).tracks) == 6


def test_a_downmix_is_one_track_of_all_that_can_be_decoded() -> None:
    found = plan(file(BROKEN, STEREO, MONO), processing_mode="downmix")
    [track] = found.tracks
    assert (track.track.id, track.track.stream, track.track.codec) == ("downmix", None, "aac")
    assert track.feeds == (Feed(0, 1), Feed(0, 2))
    [notice] = found.notices
    assert notice.code == "stream-unsupported"
    assert notice.detail.startswith("1 audio stream has a codec")


layouts = st.lists(st.lists(st.sampled_from([MONO, STEREO, SURROUND, BROKEN]), min_size=1, max_size=3), min_size=1)


@given(layouts=layouts, split=st.sampled_from(["auto", "always", "never"]))
def test_every_channel_belongs_to_exactly_one_track(layouts: list[list[StreamFacts]], split: str) -> None:
    files = [file(*streams) for streams in layouts]
    found = plan(*files, split_channels=split, max_tracks=1000)
    assert len(set(ids(found))) == len(found.decoded)
    assert [track.track.index for track in found.tracks] == list(range(len(found.tracks)))
    fed = []
    for feed in (feed for part in found.decoded for feed in part.feeds):
        channels = range(files[feed.file][feed.stream].channels) if feed.channel is None else [feed.channel]
        fed += [(feed.file, feed.stream, channel) for channel in channels]
    assert fed == [
        (number, facts.number, channel)
        for number, streams in enumerate(files)
        for facts in streams
        if facts.error is None
        for channel in range(facts.channels)
    ]
