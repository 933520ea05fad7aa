"""A conversation of three voices through the real model: each on its own track, whatever way the tracks arrive."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conversation import CALLER, GUEST, HOST, RECORDING, VOICES, Voice, stream
from tests.service.installation import WHISPER, Installation, Service
from tests.stages.making import Stream, record

pytestmark = [pytest.mark.postgres, pytest.mark.weights, pytest.mark.usefixtures("base_model")]

SETTINGS = WHISPER
README = Path(__file__).parents[2] / "README.md"
LABELS = [{"index": index, "label": voice.name} for index, voice in enumerate(VOICES)]
# A clip may begin and end with so much silence.
AROUND_SECONDS = 0.6


def port(service: Service) -> str:
    return service.address.rpartition(":")[2]


def words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


def said(voice: Voice) -> list[str]:
    return words(" ".join(line.text for line in voice.lines))


def heard(result: dict[str, Any], track: str) -> list[str]:
    return words(" ".join(segment["text"] for segment in result["segments"] if segment["track"] == track))


def transcribed(service: Service, *media: Path, **request: Any) -> dict[str, Any]:
    return dict(service.completed(service.submit(*media, **request))["result"])


def times(result: dict[str, Any]) -> list[float]:
    return [segment[edge] for segment in result["segments"] for edge in ("start", "end")]


@pytest.fixture(scope="module")
def conversation(service: Service) -> dict[str, Any]:
    return transcribed(service, RECORDING, processing_mode="multitrack", tracks=LABELS, word_timestamps=True)


@pytest.fixture
def files(tmp_path: Path) -> Sequence[Path]:
    """Every voice in a file of its own, which begins when the voice joins."""
    return [record(tmp_path / f"{voice.name}.mkv", alone(voice)) for voice in VOICES]


def alone(voice: Voice) -> Stream:
    among = stream(voice)
    return replace(among, parts=[replace(part, start=0.0) for part in among.parts])


def test_every_voice_is_on_its_own_track_word_for_word(conversation: dict[str, Any]) -> None:
    assert [heard(conversation, f"{index}:0") for index in range(3)] == [said(voice) for voice in VOICES]
    told = [
        (track["id"], track["label"], track["metadata"]["title"], track["status"]) for track in conversation["tracks"]
    ]
    assert told == [(f"{index}:0", voice.name, voice.name, "transcribed") for index, voice in enumerate(VOICES)]
    assert [track["codec"] for track in conversation["tracks"]] == ["opus", "aac", "mp3"]
    assert conversation["warnings"] == []


def test_every_line_begins_where_it_is_said(conversation: dict[str, Any]) -> None:
    for index, voice in enumerate(VOICES):
        mine = [segment for segment in conversation["segments"] if segment["track"] == f"{index}:0"]
        starts = iter([word["start"] for segment in mine for word in segment["words"]])
        for line in voice.lines:
            first, *_ = (next(starts) for _ in words(line.text))
            assert first == pytest.approx(line.start, abs=AROUND_SECONDS)


def test_a_remark_within_a_turn_does_not_end_it(conversation: dict[str, Any]) -> None:
    [caller] = [segment for segment in conversation["segments"] if segment["track"] == "2:0"]
    [among] = [conversation["segments"][number] for number in caller["overlaps"]]
    assert among["track"] == "1:0"
    assert among["start"] < caller["start"] < caller["end"] < among["end"]
    assert caller["id"] in among["overlaps"]


def test_a_downmix_of_it_is_one_track_and_loses_words(service: Service) -> None:
    mixed = transcribed(service, RECORDING)
    assert [track["id"] for track in mixed["tracks"]] == ["downmix"]
    assert not set(said(HOST) + said(GUEST) + said(CALLER)) <= set(words(mixed["text"]))


def test_files_are_the_tracks_of_one_recording_each_in_its_time(
    service: Service, conversation: dict[str, Any], files: Sequence[Path]
) -> None:
    tracks = [{**label, "offset_seconds": voice.joins} for label, voice in zip(LABELS, VOICES, strict=True)]
    together = transcribed(service, *files, processing_mode="multitrack", tracks=tracks)
    assert together["text"] == conversation["text"]
    assert times(together) == pytest.approx(times(conversation), abs=0.1)


def test_one_track_is_selected_by_its_place(service: Service) -> None:
    chosen = transcribed(service, RECORDING, processing_mode="select", track_index=1)
    assert [(track["id"], track["stream"]) for track in chosen["tracks"]] == [("1:0", 1)]
    assert words(chosen["text"]) == said(GUEST)


def test_a_broken_file_among_several_is_a_failed_track_and_the_others_are_heard(
    service: Service, files: Sequence[Path]
) -> None:
    files[0].write_bytes(b"Minutes of the meeting, typed, not recorded.\n" * 100)
    job = service.completed(service.submit(*files, processing_mode="multitrack", tracks=LABELS))
    statuses = {track["label"]: track["status"] for track in job["result"]["tracks"]}
    assert statuses == {"host": "failed", "guest": "transcribed", "caller": "transcribed"}
    assert heard(job["result"], "1:0") == said(GUEST)
    assert [(warning["code"], warning["track"]) for warning in job["warnings"]] == [("track-failed", "0:0")]
    assert job["result"]["tracks"][0]["error"]["code"] == "media-unsupported"


@pytest.mark.parametrize("way", [[], ["--once"]], ids=["service", "once"])
def test_the_first_example_of_the_readme_is_what_comes_out(
    home: Installation, service: Service, way: list[str]
) -> None:
    example = README.read_text().partition("$ ./scripts/transcribe.bash ")[2].partition("```")[0]
    command, _, shown = example.partition("\n")
    *arguments, recording = command.split()
    ran = home.run("transcribe", *arguments, *way, README.parent / recording, HTTP__PORT=port(service))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == shown


def test_the_command_line_takes_files_as_tracks_and_calls_them_by_their_titles(
    home: Installation, service: Service, files: Sequence[Path]
) -> None:
    ran = home.run("transcribe", *files, "--format", "vtt", HTTP__PORT=port(service))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert set(re.findall(r"<v (.*?)>", ran.stdout)) == {voice.name for voice in VOICES}
