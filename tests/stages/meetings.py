"""Meetings made of real clips: who says what, when, into which microphone. So what is right about them is known."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
import numpy as np
from av.audio.resampler import AudioResampler

from tests.stages.making import Part, Sound, Stream, record, tone

RATE: Final = 16_000
MEDIA: Final = Path(__file__).parents[1] / "media"


@dataclass(frozen=True, slots=True)
class Said:
    """A clip of ``tests/media``, by its name without ending, that somebody says from ``start`` seconds on."""

    clip: str
    start: float = 0.0


def clip(name: str, rate: int = RATE) -> Sound:
    """A recording as samples: float32, shape (1, n)."""
    resampler = AudioResampler("fltp", "mono", rate)
    with av.open(str(MEDIA / f"{name}.flac")) as container:
        frames: list[av.AudioFrame | None] = [*container.decode(audio=0), None]
    sounds = [out.to_ndarray() for frame in frames for out in resampler.resample(frame)]
    return np.concatenate(sounds, axis=1).astype(np.float32)


def reference(name: str) -> str:
    """What is said in a clip, by the manifest."""
    with (MEDIA / "manifest.tsv").open() as file:
        rows = csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t")
        return next(row["reference"] for row in rows if row["file"] == f"{name}.flac")


def voice(*lines: Said, seconds: float, rate: int = RATE) -> Sound:
    """Somebody who says these lines and nothing else: float32, shape (1, ``seconds`` × ``rate``)."""
    heard = np.zeros((1, round(seconds * rate)), np.float32)
    for line in lines:
        sound, at = clip(line.clip, rate), round(line.start * rate)
        heard[:, at : at + sound.shape[1]] += sound[:, : heard.shape[1] - at]
    return heard


def room(voices: Sequence[Sound], *, bleed: float, delay: float) -> list[Sound]:
    """A microphone before each voice, in which all others are heard too: ``bleed`` dB louder, ``delay`` seconds later.

    The room itself is heard in all of them, 60 dB below full scale.
    """
    noise, late = np.random.default_rng(3), round(delay * RATE)
    copies = [np.pad(voice, ((0, 0), (late, 0)))[:, : voice.shape[1]] * 10 ** (bleed / 20) for voice in voices]
    return [
        (voice + sum(copies) - copy + noise.normal(0, 0.001, voice.shape)).astype(np.float32)
        for voice, copy in zip(voices, copies, strict=True)
    ]


def mastered(sung: Sound) -> Sound:
    """A voice in the middle of a stereo picture of chords, as records are mixed: shape (2, n)."""
    time = np.arange(sung.shape[1]) / RATE
    left, right = ([np.sin(2 * np.pi * hertz * time) for hertz in chord] for chord in ((220, 277), (330, 440)))
    return np.stack([sung[0] + 0.012 * sum(left), sung[0] + 0.012 * sum(right)]).astype(np.float32)


def damaged(source: Path, path: Path, stream: int) -> Path:
    """The same file with noise for every packet of one of its audio streams."""
    noise = np.random.default_rng(5)
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        outs = [new.add_stream_from_template(each) for each in old.streams.audio]
        for packet in old.demux():
            if packet.dts is None:
                continue
            if packet.stream_index == stream:
                broken = av.Packet(noise.bytes(packet.size))
                broken.pts, broken.dts, broken.time_base = packet.pts, packet.dts, packet.time_base
                broken.duration, broken.stream = packet.duration or 0, outs[stream]
                new.mux(broken)
            else:
                packet.stream = outs[packet.stream_index]
                new.mux(packet)
    return path


# ── the recordings: the files of one job each, and what is said in them ──────────────────────────────────────────────


CHAIR, LATE, BEFORE, AFTER = (
    Said("leopard_en", 1.0),
    Said("austen_0870", 2.5),
    Said("austen_0880"),
    Said("austen_0890", 7.0),
)


def panel(folder: Path) -> Sequence[Path]:
    """Three streams: a codec and a sample rate each; one begins late, one has a hole of four seconds."""
    chair = Stream([Part(0, voice(CHAIR, seconds=12, rate=44_100))], 44_100, "aac")
    late = Stream([Part(LATE.start, clip(LATE.clip, 48_000))], 48_000, "libopus")
    holed = Stream([Part(line.start, clip(line.clip)) for line in (BEFORE, AFTER)], RATE, "flac")
    return [record(folder / "panel.mkv", chair, late, holed)]


AGENT, CUSTOMER = Said("leopard_en", 0.5), Said("austen_0880", 5.5)


def call(folder: Path) -> Sequence[Path]:
    """Stereo with a speaker a side, who answers before the other has quite ended."""
    sides = [voice(line, seconds=9) for line in (AGENT, CUSTOMER)]
    return [record(folder / "call.wav", Stream([Part(0, np.concatenate(sides))], RATE))]


DUET = Said("leopard_en"), Said("austen_0870")


def duet(folder: Path) -> Sequence[Path]:
    """Stereo with a speaker a side, both of whom speak all the time."""
    sides = [voice(line, seconds=7) for line in DUET]
    return [record(folder / "duet.flac", Stream([Part(0, np.concatenate(sides))], RATE, "flac"))]


def song(folder: Path) -> Sequence[Path]:
    """Stereo with a voice in the middle of music."""
    return [record(folder / "song.flac", Stream([Part(0, mastered(voice(AGENT, seconds=7)))], RATE, "flac"))]


def dual_mono(folder: Path) -> Sequence[Path]:
    return [record(folder / "twice.wav", Stream([Part(0, np.repeat(clip("leopard_en"), 2, axis=0))], RATE))]


LANGUAGES = ("de", "fr", "es", "en")


def languages(folder: Path) -> Sequence[Path]:
    streams = [Stream([Part(0, clip(f"leopard_{language}"))], RATE, "flac") for language in LANGUAGES]
    return [record(folder / "languages.mka", *streams)]


def unlucky(folder: Path) -> Sequence[Path]:
    """A voice, a microphone nobody speaks into, and a stream of noise in place of packets."""
    spoken, silent = voice(AGENT, seconds=7), np.zeros((1, 7 * RATE), np.float32)
    streams = [Stream([Part(0, sound)], RATE, "flac") for sound in (spoken, silent, spoken)]
    return [damaged(record(folder / "whole.mkv", *streams), folder / "unlucky.mkv", stream=2)]


def nobody(folder: Path) -> Sequence[Path]:
    streams = [Stream([Part(0, tone(hertz, seconds=5, rate=RATE, level=0.001))], RATE) for hertz in (220, 330)]
    return [record(folder / "nobody.mkv", *streams)]


def desks(folder: Path) -> Sequence[Path]:
    """Two files of different length."""
    return [
        record(folder / f"{name}.flac", Stream([Part(0, clip(name))], RATE, "flac"))
        for name in ("leopard_en", "austen_0880")
    ]


ANNA = Said("leopard_en", 0.5), Said("austen_0880", 20.5)
BELLA = Said("leopard_en", 8.4), Said("austen_0890", 14.8)
TWO_ROWS = ((ANNA, "0:0", "1:0"), (BELLA, "1:0", "0:0"))


def meeting(folder: Path) -> Sequence[Path]:
    """Two at one table, each heard in the other's microphone; two seconds after Anna, Bella says what Anna said."""
    voices = [voice(*lines, seconds=24) for lines in (ANNA, BELLA)]
    streams = [Stream([Part(0, sound)], RATE, "flac") for sound in room(voices, bleed=-12, delay=0.006)]
    return [record(folder / "meeting.mkv", *streams)]
