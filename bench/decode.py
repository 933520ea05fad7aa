"""How fast files become tracks, and that memory does not grow with their length."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer

from bench import RECORDINGS, Benchmark
from bench.decoded import Decoded
from bench.figures import Figure, Report
from pipeline.settings import GIB, MIB

SPOKEN: Final = "sonnet_p001.mp3"  # 53 s, again and again
CODECS: Final = {"pcm_s16le": 48_000, "flac": 48_000, "aac": 48_000, "libmp3lame": 44_100, "libopus": 48_000}
MANY: Final = 8
SHORT, LONG, LESS_LONG = 600.0, 36_000.0, 3_600.0
REPETITIONS: Final = 3
TARGET: Final = 1.1


def run(quick: bool) -> Report:
    long = LESS_LONG if quick else LONG
    figures = [*speed(SHORT / 10 if quick else SHORT, 1 if quick else REPETITIONS), *memory(SHORT, long)]
    told = {"recording": f"{SPOKEN}, again and again, in Matroska", "request": "multitrack, crosstalk off, never split"}
    return Report("decode", told, figures)


def speed(seconds: float, repetitions: int) -> Iterator[Figure]:
    for codec, rate in CODECS.items():
        for tracks in (1, MANY):
            with tempfile.TemporaryDirectory() as folder:
                path = write(Path(folder) / "media", codec, rate, tracks, seconds)
                measured = [Decoded.apart(path) for _ in range(repetitions)]
            name = f"{codec} {rate / 1000:g} kHz × {tracks}"
            yield Figure(f"{name}: media seconds a second", [one.seconds / one.wall for one in measured])
            hours = tracks * seconds / 3600
            yield Figure(f"{name}: CPU a track-hour", [one.cpu / hours for one in measured], "s")


def memory(short: float, long: float) -> Iterator[Figure]:
    """Of a process that decodes so many seconds of eight tracks."""
    measured = []
    for seconds in (short, long):
        with tempfile.TemporaryDirectory() as folder:
            decoded = Decoded.apart(write(Path(folder) / "media", "aac", 16_000, MANY, seconds))
        name = f"{seconds / 60:g} min × {MANY}"
        yield Figure(f"{name}: peak memory", [decoded.peak / MIB], "MiB")
        yield Figure(f"{name}: disk for its tracks", [decoded.disk / GIB], "GiB")
        measured.append(decoded)
    brief, lengthy = measured
    yield Figure("ratio of the peaks", [lengthy.peak / brief.peak], at_most=TARGET)


def write(path: Path, codec: str, rate: int, tracks: int, seconds: float) -> Path:
    """So many tracks of speech, encoded once: its packets are written over and over, each at its time."""
    with av.open(str(path), "w", format="matroska") as container:
        streams = [_added(container, codec, rate) for _ in range(tracks)]
        container.start_encoding()
        packets = _encoded(streams[0])
        first, step = packets[0].pts or 0, packets[0].duration or 0
        for number in range(round(seconds * rate / step)):
            sound = bytes(packets[number % len(packets)])
            for stream in streams:
                packet = av.Packet(sound)
                packet.pts = packet.dts = first + number * step
                packet.duration, packet.time_base, packet.stream = step, Fraction(1, rate), stream
                container.mux(packet)
    return path


def _added(container: OutputContainer, codec: str, rate: int) -> AudioStream:
    stream = container.add_stream(codec, rate, layout="mono")
    assert isinstance(stream, AudioStream)
    return stream


def _encoded(stream: AudioStream) -> list[av.Packet[AudioStream]]:
    """The recording in packets of one length."""
    convert = AudioResampler(stream.format.name, "mono", stream.rate, frame_size=stream.frame_size or stream.rate // 50)
    with av.open(str(RECORDINGS / SPOKEN)) as recording:
        frames = [out for frame in recording.decode(audio=0) for out in convert.resample(frame)]
    return [packet for frame in frames for packet in stream.encode(frame)]


BENCHMARK: Final = Benchmark(
    "decode",
    "how fast one and eight tracks are decoded in one pass, and the memory that minutes and hours take",
    f"peak memory for 10 hours × {MANY} tracks ≤ {TARGET:g} × that for 10 minutes",
    run,
)
