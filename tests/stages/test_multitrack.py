"""Every voice on its own track: recordings made of real clips, through the whole chain and the real model.

What a clip's words are and when they begin is known from the clip alone, heard by the model in one piece.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.settings import EngineSettings
from stages.engines import DraftWord, Engine, load, weights
from tests.conformance.engine_suite import hear
from tests.stages import meetings
from tests.stages.listening import Heard, Order, listen, order
from tests.stages.measures import misplaced, plain, text, word_errors
from tests.stages.meetings import Said, clip, reference

pytestmark = pytest.mark.weights

CLIPS = ("leopard_en", "leopard_de", "leopard_fr", "leopard_es", "austen_0870", "austen_0880", "austen_0890")
Recording = Callable[[Path], Sequence[Path]]
Ask = Callable[..., Heard]
Says = Callable[..., None]

# ── what is true, and what is heard ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    try:
        weights.find("base", EngineSettings())
    except ConfigError as error:
        pytest.skip(str(error))
    engine = load(EngineSettings(model="base", device="cpu"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def alone(engine: Engine) -> Mapping[str, Sequence[DraftWord]]:
    """The words of each clip, heard by itself."""
    with ThreadPoolExecutor(engine.capabilities.lanes) as lanes:
        drafts = lanes.map(lambda name: hear(engine, clip(name)[0]), CLIPS)
        return {name: draft.words for name, draft in zip(CLIPS, drafts, strict=True)}


@pytest.fixture(scope="module")
def understands(alone: Mapping[str, Sequence[DraftWord]]) -> Says:
    """Fails unless a track says these lines as well as their clips say them alone, to a word in each."""

    def check(heard: Heard, track: str, *lines: Said) -> None:
        said = " ".join(reference(line.clip) for line in lines)
        best = " ".join(text(plain(alone[line.clip])) for line in lines)
        words = text(plain(heard.words(track)))
        assert word_errors(said, words) <= word_errors(said, best) + len(lines), words

    return check


@pytest.fixture(scope="module")
def says(alone: Mapping[str, Sequence[DraftWord]], understands: Says) -> Says:
    """Fails unless a track says these lines so well, and every word when it was said."""

    def check(heard: Heard, track: str, *lines: Said) -> None:
        understands(heard, track, *lines)
        truth = [word for line in lines for word in plain(alone[line.clip], line.start)]
        assert misplaced(truth, plain(heard.words(track))) == []

    return check


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recording], Sequence[Path]]:
    return cache(lambda recording: recording(tmp_path_factory.mktemp(recording.__name__)))


@pytest.fixture(scope="module")
def ask(engine: Engine, made: Callable[[Recording], Sequence[Path]]) -> Ask:
    """What the chain makes of a recording; the same question is asked once."""

    @cache
    def asked(recording: Recording, **request: str) -> Heard:
        return listen(engine, multitrack(made(recording), **request))[0]

    return asked


def multitrack(files: Sequence[Path], **request: str) -> Order:
    return order(*files, **{"processing_mode": "multitrack", **request})


# ── streams and channels ─────────────────────────────────────────────────────────────────────────────────────────────


def test_three_codecs_and_three_sample_rates_in_one_file_change_no_word(ask: Ask, says: Says) -> None:
    heard = ask(meetings.panel)
    assert [(track.codec, track.sample_rate) for track in heard.transcript.tracks] == [
        ("aac", 44_100),
        ("opus", 48_000),
        ("flac", meetings.RATE),
    ]
    says(heard, "0:0", meetings.CHAIR)


def test_a_stream_that_starts_late_is_that_late(ask: Ask, says: Says) -> None:
    heard = ask(meetings.panel)
    assert heard.track("1:0").start_offset == pytest.approx(meetings.LATE.start, abs=0.005)
    says(heard, "1:0", meetings.LATE)


def test_a_hole_in_a_stream_stays_a_hole(ask: Ask, says: Says) -> None:
    heard = ask(meetings.panel)
    says(heard, "2:0", meetings.BEFORE, meetings.AFTER)
    assert [word.word for word in heard.words("2:0") if 3.0 < word.start < 6.9] == []


def test_tracks_handed_on_while_they_grow_say_what_they_say_when_listened_to_first(ask: Ask) -> None:
    growing, whole = ask(meetings.panel, crosstalk="off", split_channels="never"), ask(meetings.panel)
    assert spoken(growing) == spoken(whole)


def test_a_call_becomes_two_tracks_with_every_word_on_its_own(ask: Ask, says: Says) -> None:
    heard = ask(meetings.call)
    assert heard.statuses() == {"0:0": "transcribed", "0:1": "transcribed"}
    says(heard, "0:0", meetings.AGENT)
    says(heard, "0:1", meetings.CUSTOMER)


def test_two_who_talk_at_once_are_each_understood_where_a_downmix_is_garbled(
    ask: Ask, says: Says, alone: Mapping[str, Sequence[DraftWord]]
) -> None:
    apart, mixed = ask(meetings.duet), ask(meetings.duet, processing_mode="downmix")
    for track, line in zip(("0:0", "0:1"), meetings.DUET, strict=True):
        says(apart, track, line)
    said = Counter(word.word for line in meetings.DUET for word in plain(alone[line.clip]))
    # Blind to order, which favours the downmix: it need not tell who said what, nor when.
    lost, lost_in_the_mix = ((said - Counter(words_of(heard))).total() for heard in (apart, mixed))
    assert lost <= len(meetings.DUET)
    assert lost_in_the_mix > 10


def test_music_around_a_voice_stays_one_track(ask: Ask, says: Says) -> None:
    heard = ask(meetings.song)
    [track] = heard.transcript.tracks
    assert (track.id, track.channel, track.status) == ("0:0", None, "transcribed")
    says(heard, "0:0", meetings.AGENT)
    assert heard.windows == 1


def test_a_mono_recording_in_stereo_is_one_track_and_a_duplicate_that_costs_nothing(ask: Ask) -> None:
    heard = ask(meetings.dual_mono)
    assert heard.statuses() == {"0:0": "transcribed", "0:1": "duplicate"}
    assert heard.track("0:1").duplicate_of == "0:0"
    assert heard.segments("0:1") == []
    assert heard.windows == 1
    assert heard.job.usage is not None
    assert heard.job.usage.speech_seconds == pytest.approx(heard.track("0:0").speech_seconds, abs=0.01)


def test_several_files_are_the_tracks_of_one_job_each_moved_by_its_offset(
    engine: Engine, made: Callable[[Recording], Sequence[Path]], says: Says
) -> None:
    tracks = [{"index": 0, "label": "here"}, {"index": 1, "label": "there", "offset_seconds": 4.5}]
    [heard] = listen(engine, order(*made(meetings.desks), processing_mode="multitrack", tracks=tracks))
    says(heard, "0:0", Said("leopard_en"))
    says(heard, "1:0", Said("austen_0880", 4.5))
    assert [line.partition(":")[0] for line in heard.transcript.text.splitlines()] == ["here", "there"]


# ── what each track is told of itself ────────────────────────────────────────────────────────────────────────────────


def test_each_track_has_its_own_language(ask: Ask, understands: Says) -> None:
    heard = ask(meetings.languages)
    assert [track.language for track in heard.transcript.tracks] == [*meetings.LANGUAGES]
    for number, language in enumerate(meetings.LANGUAGES):
        understands(heard, f"{number}:0", Said(f"leopard_{language}"))


def test_a_silent_and_a_broken_track_leave_the_third_as_it_is(ask: Ask, says: Says) -> None:
    heard = ask(meetings.unlucky)
    assert heard.statuses() == {"0:0": "transcribed", "1:0": "silent", "2:0": "failed"}
    assert {("track-silent", "1:0"), ("track-failed", "2:0")} <= set(heard.warnings())
    error = heard.track("2:0").error
    assert error is not None
    assert error["code"] == "media-corrupt"
    says(heard, "0:0", meetings.AGENT)


def test_where_nobody_speaks_on_any_track_the_job_completes_without_a_word(ask: Ask) -> None:
    heard = ask(meetings.nobody)
    assert set(heard.statuses().values()) == {"silent"}
    assert (heard.transcript.segments, heard.transcript.text, heard.windows) == ((), "", 0)


# ── one voice in two microphones ─────────────────────────────────────────────────────────────────────────────────────

BOTH = sorted((*meetings.ANNA, *meetings.BELLA), key=lambda line: line.start)


def test_cross_talk_that_is_not_looked_for_says_everything_twice(ask: Ask, says: Says) -> None:
    heard = ask(meetings.meeting, crosstalk="off")
    says(heard, "0:0", *BOTH)
    says(heard, "1:0", *BOTH)
    assert not any(segment.crosstalk for segment in heard.transcript.segments)


def test_marked_cross_talk_loses_no_word_and_names_whose_voice_it_is(ask: Ask, says: Says) -> None:
    heard = ask(meetings.meeting, crosstalk="mark")
    for track, own, other in (("0:0", meetings.ANNA, "1:0"), ("1:0", meetings.BELLA, "0:0")):
        says(heard, track, *BOTH)
        sources = [(source, line in own) for line, source in sources_of_words(heard, track)]
        assert {source for source, mine in sources if mine} == {None}
        named = [source for source, mine in sources if not mine]
        assert named.count(other) >= 0.95 * len(named), named
        marked = [segment.text for segment in heard.segments(track) if segment.crosstalk]
        assert len(marked) == len(BOTH) - len(own), marked


def test_suppressed_cross_talk_leaves_each_sentence_once_and_who_repeats_one_keeps_it(ask: Ask, says: Says) -> None:
    heard = ask(meetings.meeting, crosstalk="suppress")
    says(heard, "0:0", *meetings.ANNA)
    says(heard, "1:0", *meetings.BELLA)
    assert heard.warnings() == [("crosstalk-suppressed", "0:0"), ("crosstalk-suppressed", "1:0")]


def test_suppressed_cross_talk_costs_nothing(ask: Ask) -> None:
    kept, suppressed = (ask(meetings.meeting, crosstalk=mode).job.usage for mode in ("off", "suppress"))
    assert kept is not None
    assert suppressed is not None
    assert suppressed.speech_seconds < 0.6 * kept.speech_seconds


def sources_of_words(heard: Heard, track: str) -> list[tuple[Said, str | None]]:
    """For each word of a track the line it belongs to, and whose voice it is said to be, if another's."""
    return [
        (
            [line for line in BOTH if line.start < word.start + 0.3][-1],
            segment.crosstalk.source if segment.crosstalk else None,
        )
        for segment in heard.segments(track)
        for word in segment.words or ()
    ]


# ── alone and in company ─────────────────────────────────────────────────────────────────────────────────────────────


def test_two_jobs_at_once_say_what_each_says_alone(
    engine: Engine, made: Callable[[Recording], Sequence[Path]], ask: Ask
) -> None:
    together = listen(engine, multitrack(made(meetings.panel)), multitrack(made(meetings.call)))
    assert [spoken(heard) for heard in together] == [spoken(ask(meetings.panel)), spoken(ask(meetings.call))]


def words_of(heard: Heard) -> list[str]:
    return [word.word for track in heard.transcript.tracks for word in plain(heard.words(track.id))]


def spoken(heard: Heard) -> list[tuple[str, float, float, str]]:
    return [(segment.track, segment.start, segment.end, segment.text) for segment in heard.transcript.segments]
