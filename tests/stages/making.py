"""Recordings made for tests: streams that start late or have holes, in any container and codec that PyAV writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

Sound = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Part:
    """A stretch of sound that lies in its stream at ``start`` seconds. ``sound``: float32, shape (channels, n)."""

    start: float
    sound: Sound


@dataclass(frozen=True, eq=False)
class Stream:
    """``lost``: from when to when, in seconds, its packets are not in the file."""

    parts: Sequence[Part]
    rate: int = 48_000
    codec: str = "pcm_s16le"
    title: str = ""
    bit_rate: int | None = None
    lost: tuple[float, float] = (0.0, 0.0)


def clicks(*times: float, seconds: float, rate: int = 48_000, begins: float = 0.0, channels: int = 1) -> Sound:
    """Silence from ``begins`` on, with a burst of 10 ms of 1 kHz at each of ``times`` (on the media's clock)."""
    sound = np.zeros(round(seconds * rate), np.float32)
    burst = 0.6 * np.sin(2 * np.pi * 1000 * np.arange(rate // 100) / rate)
    for time in times:
        at = round((time - begins) * rate)
        sound[at : at + len(burst)] = burst[: len(sound) - at]
    return np.tile(sound, (channels, 1))


def tone(hertz: float, *, seconds: float, rate: int = 48_000, level: float = 0.3) -> Sound:
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)[None]


def record(path: Path, *streams: Stream, container_format: str | None = None, **options: str) -> Path:
    """Write the streams to ``path``, interleaved by time, each frame with the time stamp of its place.

    ``options`` are the container's, as libav names them.
    """
    with av.open(str(path), "w", format=container_format, options=options) as container:
        packets: list[av.Packet[av.AudioStream]] = []
        for stream in streams:
            packets += _encoded(container, stream)
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            container.mux(packet)
    return path


def film(path: Path, *, sound: Sound | None, seconds: int = 1) -> Path:
    """Grey pictures, with or without sound."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        packets = _encoded(container, Stream([Part(0.0, sound)], codec="aac")) if sound is not None else []
        for number in range(25 * seconds):
            picture = av.VideoFrame.from_ndarray(np.full((72, 64), 128, np.uint8), "yuv420p")
            picture.pts = number
            container.mux(video.encode(picture))
        container.mux([*video.encode(None), *packets])
    return path


def write_wide(path: Path, sound: Sound, rate: int) -> None:
    """A WAV file of 64-bit samples, shape (channels, n)."""
    whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), "fltp", "stereo" if len(sound) == 2 else "mono")
    whole.sample_rate = rate
    with av.open(str(path), "w") as container:
        out = container.add_stream("pcm_s64le", rate=rate, layout=whole.layout.name)
        for frame in AudioResampler("s64", whole.layout, rate).resample(whole):
            container.mux(out.encode(frame))


def _encoded(container: av.container.OutputContainer, stream: Stream) -> list[av.Packet[av.AudioStream]]:
    layout = "mono" if len(stream.parts[0].sound) == 1 else "stereo"
    # libav's own Vorbis encoder, the only one there always is, has to be asked for like this.
    options = {"strict": "experimental"}
    out = container.add_stream(stream.codec, stream.rate, options, layout=layout)
    assert isinstance(out, av.AudioStream)
    if stream.bit_rate:
        out.bit_rate = stream.bit_rate
    if stream.title:
        out.metadata["title"] = stream.title
    packets: list[av.Packet[av.AudioStream]] = []
    for part in stream.parts:
        # Without a frame size of its own an encoder packs what it is given: 20 ms, as callers do.
        convert = AudioResampler(out.format.name, layout, stream.rate, frame_size=out.frame_size or stream.rate // 50)
        whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(part.sound), "fltp", layout)
        whole.sample_rate, whole.time_base = stream.rate, Fraction(1, stream.rate)
        whole.pts = round(part.start * stream.rate)
        for frame in [*convert.resample(whole), *convert.resample(None)]:
            packets += out.encode(frame)
    packets += out.encode(None)
    begin, end = stream.lost
    return [packet for packet in packets if not begin <= (packet.pts or 0) * packet.time_base < end]


def sound_of(path: Path) -> tuple[Sound, int]:
    """A file's sound as it stands in the file, float32, shape (channels, n), and its rate."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        convert = AudioResampler("fltp", stream.layout, stream.rate)
        frames = [out for frame in container.decode(stream) for out in convert.resample(frame)]
        return np.concatenate([frame.to_ndarray() for frame in frames], axis=1).astype(np.float32), stream.rate


def resampled(sound: tuple[Sound, int]) -> NDArray[np.int16]:
    """Mono int16 at 16 kHz, shape (n,), of the mean of the channels."""
    channels, rate = sound
    frame = av.AudioFrame.from_ndarray(channels.mean(axis=0, keepdims=True), "fltp", "mono")
    frame.sample_rate = rate
    convert = AudioResampler("s16", "mono", 16_000)
    return np.concatenate([out.to_ndarray()[0] for out in [*convert.resample(frame), *convert.resample(None)]])
