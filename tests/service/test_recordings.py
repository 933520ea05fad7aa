"""Real recordings through the real model: what is said in them is in the transcript, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.service.installation import WHISPER, Installation, Service
from tests.stages.making import Part, Stream, record, tone
from tests.stages.web import Web, answer

pytestmark = [pytest.mark.postgres, pytest.mark.weights, pytest.mark.usefixtures("base_model")]

SETTINGS = WHISPER
SONNET = ("fairest creatures", "might never die")
CLIPS = {
    "jfk.flac": ("my fellow americans", "ask not what your country can do for you"),
    **dict.fromkeys(("sonnet_clip.mp3", "sonnet_clip.mp4", "sonnet_clip.ogg", "sonnet_clip.webm"), SONNET),
}
RATE = 16_000


def heard(service: Service, job_id: str) -> tuple[dict[str, Any], str]:
    """A completed job, and its text in small letters."""
    job = service.completed(job_id)
    return job, job["result"]["text"].lower()


@pytest.mark.parametrize("clip", CLIPS)
def test_what_is_said_in_an_upload_is_in_its_transcript(service: Service, media: Path, clip: str) -> None:
    job, text = heard(service, service.submit(media / clip))
    for phrase in CLIPS[clip]:
        assert phrase in text
    assert (job["attempt"], job["progress"]["fraction"], job["result"]["language"]) == (1, 1.0, "en")
    assert job["warnings"] == []


def test_what_is_said_behind_a_url_is_in_its_transcript(service: Service, media: Path, web: Web) -> None:
    web.answers["/talk"] = answer((media / "jfk.flac").read_bytes())
    job, text = heard(service, service.submit(web.url("/talk?signature=secret")))
    assert "ask not what your country can do for you" in text
    assert job["media_url"] == web.url("/talk")


@pytest.mark.parametrize("clip", ["jfk.flac", "sonnet_clip.mp3", "half.mp4", "sonnet_clip.ogg", "sonnet_clip.webm"])
def test_of_a_file_cut_in_half_the_first_half_is_transcribed_with_a_warning(
    service: Service, media: Path, tmp_path: Path, clip: str
) -> None:
    source = _index_first(media / "sonnet_clip.mp4", tmp_path / clip) if clip.endswith(".mp4") else media / clip
    whole = source.read_bytes()
    half = tmp_path / f"cut-{clip}"
    half.write_bytes(whole[: len(whole) // 2])
    job, text = heard(service, service.submit(half))
    begins, ends = CLIPS.get(clip, SONNET)
    assert begins in text
    assert ends not in text
    assert {"media-truncated", "media-damaged"} & {warning["code"] for warning in job["warnings"]}


@pytest.mark.parametrize("sound", ["silence", "noise", "tone"])
def test_where_nobody_speaks_no_word_is_heard(service: Service, tmp_path: Path, sound: str) -> None:
    made = {
        "silence": np.zeros((1, 20 * RATE), np.float32),
        "noise": np.random.default_rng(7).normal(0.0, 0.003, (1, 20 * RATE)).astype(np.float32),
        "tone": tone(440.0, seconds=20, rate=RATE),
    }
    path = record(tmp_path / f"{sound}.wav", Stream([Part(0.0, made[sound])], rate=RATE))
    job, text = heard(service, service.submit(path))
    assert (text, job["result"]["segments"]) == ("", [])
    assert job["result"]["duration"] == pytest.approx(20.0)
    assert [warning["code"] for warning in job["warnings"]] == ["track-silent"]


def test_a_recording_is_transcribed_once_in_the_process_without_a_database(home: Installation, media: Path) -> None:
    before = home.processes()
    ran = home.run("transcribe", "--once", media / "jfk.flac", "--format", "json", "--words")
    assert ran.returncode == 0, ran.stderr
    assert "ask not what your country can do for you" in json.loads(ran.stdout)["text"].lower()
    assert home.processes() == before
    assert home.files() == []


def _index_first(source: Path, path: Path) -> Path:
    """The same MP4, with its index before the sound, so that half of it can be read."""
    with av.open(str(source)) as old, av.open(str(path), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.audio[0])
        for packet in old.demux(old.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return path
