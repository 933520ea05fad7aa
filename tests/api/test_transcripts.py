from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from api.transcripts import FORMS, as_json, as_srt, as_text, as_tsv, as_vtt
from pipeline.claim import Claim
from pipeline.jobs import Job
from pipeline.store.memory import MemoryStore
from pipeline.transcript import Notice, Segment, Track, Transcript, speakers
from stages.interleaver import Interleaver
from stages.messages import TrackTranscript
from tests.api.visiting import Client, bearer, complete, make_segment, make_transcript
from tests.stages.talking import conversations

HELLO = make_transcript(make_segment(0, "Hello <b>you</b> & me"), make_segment(3700, "Bye."))
CALL = make_transcript(
    make_segment(0, "Hello.", "0:0"),
    make_segment(1, "Hi.", "1:0"),
    labels={"0:0": "agent", "1:0": None},
)


def test_text_is_a_line_an_utterance() -> None:
    assert as_text(HELLO) == "Hello <b>you</b> & me\nBye.\n"


def test_srt_counts_its_cues_and_has_commas_in_its_times() -> None:
    assert as_srt(HELLO) == (
        "1\n00:00:00,240 --> 00:00:01,000\nHello <b>you</b> & me\n\n2\n01:01:40,240 --> 01:01:41,000\nBye.\n"
    )


def test_vtt_has_its_header_and_escapes_what_would_be_markup() -> None:
    assert as_vtt(HELLO) == (
        "WEBVTT\n\n00:00:00.240 --> 00:00:01.000\nHello &lt;b&gt;you&lt;/b&gt; &amp; me\n"
        "\n01:01:40.240 --> 01:01:41.000\nBye.\n"
    )


def test_tsv_has_a_header_times_in_milliseconds_and_a_column_for_the_speaker() -> None:
    assert as_tsv(HELLO) == (
        "start\tend\tspeaker\ttext\n240\t1000\t\tHello <b>you</b> & me\n3700240\t3701000\t\tBye.\n"
    )
    assert as_tsv(CALL).splitlines()[1:] == ["240\t1000\tagent\tHello.", "1240\t2000\t1:0\tHi."]


def test_speakers_are_named_only_when_more_than_one_track_speaks() -> None:
    assert as_text(CALL) == "agent: Hello.\n1:0: Hi.\n"
    assert "\nagent: Hello.\n" in as_srt(CALL)
    assert "\n<v agent>Hello.\n" in as_vtt(CALL)
    failed = CALL.tracks[1].model_copy(update={"status": "failed"})  # and yet heard
    assert as_text(CALL.model_copy(update={"tracks": (CALL.tracks[0], failed)})) == as_text(CALL)
    silent = CALL.tracks[1].model_copy(update={"status": "silent"})
    alone = CALL.model_copy(update={"tracks": (CALL.tracks[0], silent), "segments": CALL.segments[:1]})
    assert as_text(alone) == "Hello.\n"
    assert "agent" not in as_srt(alone) + as_vtt(alone) + as_tsv(alone)


def test_speakers_with_one_label_are_told_apart_by_their_tracks() -> None:
    def labelled(first: str, second: str | None) -> str:
        return as_text(make_transcript(*CALL.segments, labels={"0:0": first, "1:0": second}))

    assert labelled("agent", "agent ") == "agent (0:0): Hello.\nagent (1:0): Hi.\n"
    assert labelled("1:0", None) == "1:0 (0:0): Hello.\n1:0: Hi.\n"


def test_every_form_calls_a_track_without_a_label_by_its_title() -> None:
    titled = CALL.tracks[1].model_copy(update={"metadata": {"title": "Lapel <mic>"}})
    call = CALL.model_copy(update={"tracks": (CALL.tracks[0], titled)})
    assert as_text(call) == "agent: Hello.\nLapel <mic>: Hi.\n"
    assert "\nLapel <mic>: Hi.\n" in as_srt(call)
    assert "\n<v Lapel &lt;mic&gt;>Hi.\n" in as_vtt(call)
    assert as_tsv(call).splitlines()[2] == "1240\t2000\tLapel <mic>\tHi."
    assert json.loads(as_json(call))["tracks"][1]["label"] is None


def test_srt_has_no_arrow_but_that_of_its_times() -> None:
    said = make_segment(0, "00:00:07,000 --> 00:00:08,000", "0:0"), make_segment(1, "a ---> b", "1:0")
    file = as_srt(make_transcript(*said, labels={"0:0": "0 --> 1", "1:0": "b"}))
    arrows = [line for line in file.splitlines() if "-->" in line]
    assert arrows == ["00:00:00,240 --> 00:00:01,000", "00:00:01,240 --> 00:00:02,000"]


def test_nothing_said_is_a_valid_file_in_every_form() -> None:
    nothing = make_transcript()
    assert (as_text(nothing), as_srt(nothing), as_vtt(nothing)) == ("", "", "WEBVTT\n")
    assert as_tsv(nothing) == "start\tend\tspeaker\ttext\n"
    assert json.loads(as_json(nothing))["segments"] == []


def test_words_are_a_member_only_when_they_were_asked_for() -> None:
    def segment(transcript: Transcript) -> dict[str, Any]:
        return dict(json.loads(as_json(transcript))["segments"][0])

    assert "words" not in segment(HELLO)
    assert segment(HELLO)["no_speech_prob"] is None
    assert segment(make_transcript(make_segment(0, "Hello", words=True)))["words"][0]["word"] == "Hello"


def test_a_cue_never_ends_before_it_has_begun() -> None:
    instant = make_segment(0, "Hm.").model_copy(update={"start": 1.0, "end": 1.0})
    assert "00:00:01.000 --> 00:00:01.001" in as_vtt(make_transcript(instant))


ANYTHING = st.text(st.characters(codec="utf-8"), max_size=40) | st.text("a<>&- \n\r\t0123456789:,.", max_size=40)
LABELS = st.none() | st.sampled_from(["agent", "2:0", " ", "a\tb", "a\nb", "a --> b", "<v a>", "&lt;", ": "]) | ANYTHING


def cues_of(file: str) -> list[str]:
    """The texts of a subtitle file, read as a player would: blocks apart, times first, the rest is text."""
    blocks = [block.split("\n") for block in file.strip("\n").split("\n\n")]
    return [line for lines in blocks for at, line in enumerate(lines) if at and " --> " in lines[at - 1]]


def voiced(cue: str) -> str:
    """A cue of WebVTT as its text, with the speaker before it as in the other forms."""
    return html.unescape(re.sub(r"^<v ([^<>]*)>", r"\1: ", cue))


def row(line: str) -> str:
    _, _, speaker, text = line.split("\t")
    return f"{speaker}: {text}" if speaker else text


def words_of(lines: Iterable[str]) -> list[str]:
    return " ".join(lines).split()


@given(conversations(), st.lists(LABELS, min_size=4, max_size=4))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_form_carries_the_same_words_in_the_same_order(
    make_job: Callable[..., Job], segments: list[Segment], labels: list[str | None]
) -> None:
    transcript = await interleaved(Claim(make_job()), segments, labels)
    served = Transcript.model_validate_json(as_json(transcript))
    names = speakers(served.tracks, served.segments)
    said = [segment for segment in served.segments if segment.text.strip()]
    told = words_of(f"{names[one.track]}: {one.text}" if names else one.text for one in said)
    assert words_of([served.text]) == told
    assert words_of(as_text(transcript).splitlines()) == told
    assert words_of(cues_of(as_srt(transcript))) == [word.replace("-->", "→") for word in told]
    assert words_of(map(voiced, cues_of(as_vtt(transcript)))) == told
    assert words_of(map(row, as_tsv(transcript).split("\n")[1:-1])) == told


async def interleaved(claim: Claim, segments: list[Segment], labels: list[str | None]) -> Transcript:
    """What comes out of the chain for these utterances, of tracks with these labels."""
    stage = Interleaver(make_transcript().engine)
    names = sorted({segment.track for segment in segments}) or ["0:0"]
    for n, (name, label) in enumerate(zip(names, labels, strict=False)):
        said = tuple(segment for segment in segments if segment.track == name)
        track = Track(id=name, index=n, stream=n, channel=0, label=label, duration=200.0)
        if transcript := await stage.handle(claim, TrackTranscript(track, said, (), of=len(names))):
            return transcript
    raise AssertionError("The last track completes the transcript.")


@given(st.lists(ANYTHING), ANYTHING)
@example(["0"], "--")
def test_no_text_and_no_label_breaks_out_of_its_cue_or_row(texts: list[str], label: str) -> None:
    labels = {"0:0": label, "1:0": "b"}
    segments = [make_segment(number, text, "0:0") for number, text in enumerate(texts)]
    transcript = make_transcript(*segments, make_segment(len(texts), "b", "1:0"), labels=labels)
    file = as_vtt(transcript)
    cues = [text for text in [*texts, "b"] if text.split()]
    assert len(re.findall(r"^[\d:.]+ --> [\d:.]+$", file, re.MULTILINE)) == len(cues)
    assert file.count("-->") == len(cues)
    assert file.count("\n") == 1 + 3 * len(cues)
    rows = as_tsv(transcript).splitlines()
    assert [line.count("\t") for line in rows] == [3] * (1 + len(cues))


MEDIA_TYPES = {
    "json": "application/json",
    "text": "text/plain",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
    "tsv": "text/tab-separated-values",
}


@pytest.mark.parametrize("name", FORMS)
async def test_the_form_is_named_by_format_or_by_accept(
    client: Client, store: MemoryStore, submit: Callable[..., Any], name: str
) -> None:
    path = (await submit()).headers["Location"] + "/transcript"
    await complete(store, HELLO)
    for query, accept in ((f"?format={name}", "image/png"), ("", MEDIA_TYPES[name])):
        answer = await client.get(path + query, headers=bearer(Accept=accept))
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == f"{MEDIA_TYPES[name]}; charset=utf-8"
        assert await answer.get_data() == FORMS[name].render(HELLO).encode()


@pytest.mark.parametrize("accept", ["*/*", "image/png", "", ";;;q=x"])
async def test_json_is_answered_to_whoever_asks_for_nothing_we_have(
    client: Client, store: MemoryStore, submit: Callable[..., Any], accept: str
) -> None:
    path = (await submit()).headers["Location"] + "/transcript"
    await complete(store, HELLO)
    answer = await client.get(path, headers=bearer(Accept=accept))
    assert Transcript.model_validate(await answer.get_json()) == HELLO


async def test_an_unknown_format_is_refused_with_those_there_are(client: Client, submit: Callable[..., Any]) -> None:
    path = (await submit()).headers["Location"] + "/transcript?format=docx"
    answer = await client.get(path, headers=bearer())
    body = await answer.get_json()
    assert (answer.status_code, body["code"]) == (422, "invalid-request")
    assert "json, text, srt, vtt, tsv" in body["detail"]


async def test_two_formats_at_once_are_refused(client: Client, submit: Callable[..., Any]) -> None:
    path = (await submit()).headers["Location"] + "/transcript?format=srt&format=json"
    answer = await client.get(path, headers=bearer())
    assert answer.status_code == 422
    assert [error["pointer"] for error in (await answer.get_json())["errors"]] == ["/format"]


@pytest.fixture
async def meeting(store: MemoryStore, submit: Callable[..., Any]) -> str:
    """Where to read what two say at the same time, one of them in German, while a third is silent."""
    path = f"{(await submit()).headers['Location']}/transcript"
    said = (
        ("agent 1", "0:0", (1,)),
        ("customer 1", "1:0", (0, 2)),
        ("agent 2", "0:0", (1,)),
        ("customer 2", "1:0", ()),
    )
    call = make_transcript(
        *(
            make_segment(number, text, track, words=True).model_copy(update={"overlaps": overlaps})
            for number, (text, track, overlaps) in enumerate(said)
        ),
        labels={"0:0": "agent", "1:0": "customer", "2:0": None},
    )
    told = (("media-damaged", None), ("track-silent", "2:0"), ("no-word-times", "1:0"))
    languages = dict(zip(("0:0", "1:0", "2:0"), ("en", "de", None), strict=True))
    facts = {
        "tracks": tuple(track.model_copy(update={"language": languages[track.id]}) for track in call.tracks),
        "warnings": tuple(Notice(code=code, track=track, detail="…") for code, track in told),
    }
    await complete(store, call.model_copy(update=facts))
    return path


async def test_one_track_is_kept_with_its_times_and_ids_and_what_is_said_of_it(client: Client, meeting: str) -> None:
    whole = Transcript.model_validate(await (await client.get(meeting, headers=bearer())).get_json())
    kept = Transcript.model_validate(await (await client.get(f"{meeting}?track=1:0", headers=bearer())).get_json())
    assert kept.tracks == whole.tracks[1:2]
    assert [segment.id for segment in kept.segments] == [1, 3]
    alone = [segment.model_copy(update={"overlaps": ()}) for segment in whole.segments]
    assert kept.segments == (alone[1], alone[3])
    assert kept.text == "customer 1 customer 2"
    assert (kept.language, kept.duration, kept.engine) == ("de", whole.duration, whole.engine)
    assert [notice.code for notice in kept.warnings] == ["media-damaged", "no-word-times"]


@pytest.mark.parametrize("form", ["text", "srt", "vtt", "tsv"])
async def test_every_form_of_one_track_tells_its_words_alone_and_names_nobody(
    client: Client, meeting: str, form: str
) -> None:
    answer = await client.get(f"{meeting}?format={form}&track=0:0", headers=bearer())
    file = await answer.get_data(as_text=True)
    assert re.findall(r"\w+ \d$", file, re.MULTILINE) == ["agent 1", "agent 2"]
    assert "customer" not in file
    assert not re.search(r"agent\W*agent", file)


async def test_a_track_on_which_nobody_spoke_is_an_empty_transcript(client: Client, meeting: str) -> None:
    answer = await client.get(f"{meeting}?track=2:0", headers=bearer())
    body = await answer.get_json()
    assert (body["text"], body["language"], body["segments"]) == ("", None, [])
    assert [notice["code"] for notice in body["warnings"]] == ["media-damaged", "track-silent"]


@pytest.mark.parametrize("track", ["3:0", "1", "", "agent", "x" * 5000])
async def test_an_unknown_track_is_refused_with_those_there_are(client: Client, meeting: str, track: str) -> None:
    answer = await client.get(meeting, query_string={"track": track, "format": "srt"}, headers=bearer())
    body = await answer.get_json()
    assert (answer.status_code, body["code"]) == (422, "invalid-request")
    assert body["detail"] == f"There is no track {track[:32]!r}; give one of 0:0, 1:0, 2:0."
