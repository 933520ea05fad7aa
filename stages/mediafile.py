"""A media file, opened so that libav can open nothing beside it: its audio streams, their frames, its faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from pipeline.errors import JobError, MediaCorrupt, MediaUnsupported
from pipeline.settings import MIB
from pipeline.transcript import Notice
from stages.cutoff import is_cut_off

# Names of libav's readers. Left out on purpose: playlists and manifests (hls, dash, concat, sdp, imf …), which make it
# open other files and addresses, and devices.
FORMATS: Final = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,dv,eac3,flac,flv,latm,loas,matroska,webm,mov,mp4,mp3,mpc,mpc8,"
    "mpeg,mpegts,mxf,nut,ogg,rm,truehd,tta,voc,w64,wav,wtv,wv"
)
OPTIONS: Final = {
    "protocol_whitelist": "file",
    "format_whitelist": FORMATS,
    "probesize": str(16 * MIB),
    "analyzeduration": str(15_000_000),  # µs: broadcast recordings may begin with seconds of video alone
}
SHORT_SECONDS, SHORT_SHARE = 1.0, 0.02  # video often outlasts its sound by a few frames
MP3_LEAST_BIT_RATE: Final = 8_000  # of Layer III, the lowest there is
# Containers whose header states a length; that of others libav reads from the time stamps, and their jumps with it.
HEADED: Final = frozenset({"matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"})
ADTS_HEADER_BITS: Final = 56  # before each frame of AAC, of which silence leaves little more


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What a file says of one of its audio streams, or why it cannot be decoded.

    ``number``: its place among all streams of its file, as libav counts them. ``seconds``: where it is said to end, or
    only its file.
    """

    number: int
    codec: str | None = None
    sample_rate: int | None = None
    channels: int = 1
    layout: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    error: JobError | None = None
    seconds: float | None = None


@dataclass(eq=False, slots=True)
class MediaFile:
    """One open file, and what went wrong while it was read. ``declared``: the length it claims to have.

    ``name`` is what a client knows it by. ``damaged``: pieces that could not be decoded, by their stream's number.
    """

    path: Path
    name: str
    container: InputContainer
    streams: tuple[StreamFacts, ...]
    declared: float | None
    damaged: Counter[int] = field(default_factory=Counter)
    broken_off: bool = False
    closed: bool = False
    _audio: tuple[AudioStream, ...] = ()
    _last: Packet[AudioStream] | None = None
    _zero: float | None = None

    @classmethod
    def open(cls, path: Path, name: str = "The file") -> MediaFile:
        """Raises ``MediaUnsupported`` or ``MediaCorrupt`` when there is nothing in it to decode."""
        container = _container(path, name)
        for stream in container.streams:
            stream.discard = av.stream.Discard.none if stream.type == "audio" else av.stream.Discard.all
        if not container.streams.audio:
            raise MediaUnsupported(f"{name} has no audio stream.")
        audio = tuple(stream for stream in container.streams.audio if _has_decoder(stream))
        if not audio:
            raise MediaUnsupported(
                f"No decoder for the audio codec of this {container.format.name} file is known here."
            )
        for stream in audio:
            stream.codec_context.thread_count = 1
        facts = tuple(_facts(container, stream) for stream in container.streams.audio)
        ends = [stream.seconds for stream in facts if stream.error is None]
        declared = None if None in ends else max(end for end in ends if end is not None)
        return cls(path, name, container, facts, declared, _audio=audio)

    def close(self) -> None:
        self.container.close()
        self.closed = True

    @property
    def stated(self) -> float:
        """The length in seconds that its header states; 0 where there is none."""
        return (self.declared or 0.0) if self.container.format.name in HEADED else 0.0

    @property
    def longest_seconds(self) -> float | None:
        """The length it claims to have; where libav made that up, the most that its size can hold, if that is known."""
        if self.declared is None or not self._is_guess(self.declared):
            return self.declared
        rate = _least_bit_rate(self._audio[0])
        return self.container.size * 8 / rate if rate else None

    def packets(self) -> Iterator[Packet[AudioStream]]:
        """Each stream ends with an empty packet that flushes its decoder; after a read error nothing more comes."""
        try:
            for packet in self.container.demux(self._audio):
                self.damaged[packet.stream.index] += packet.is_corrupt
                self._last = packet if packet.size else self._last
                yield packet
        except av.FFmpegError:
            self.broken_off = True

    def frames(self, packet: Packet[AudioStream]) -> Iterator[tuple[AudioFrame, float | None]]:
        """Each frame with its start in seconds on the media's clock, where the file tells."""
        try:
            decoded = packet.decode()
        except av.FFmpegError:
            self.damaged[packet.stream.index] += not packet.is_corrupt  # which was counted
            return
        for frame in decoded:
            self._zero = self._found_zero(frame) if self._zero is None else self._zero
            yield frame, self._seconds(frame.pts, frame.time_base)

    def span(self, packet: Packet[AudioStream]) -> tuple[float | None, float]:
        """Where a packet that is not decoded starts, as a frame does, and its length; both in seconds."""
        length = float(packet.duration * packet.time_base) if packet.duration and packet.time_base else 0.0
        return self._seconds(packet.pts, packet.time_base), length

    def notices(self, end: float) -> Iterator[Notice]:
        """What the client should know of all its streams, now that the audio was found to end at ``end`` seconds."""
        if missing := self._missing(end):
            yield Notice(code="media-truncated", detail=missing)
        elif self.broken_off:
            yield Notice(code="media-damaged", detail=f"{self.name} could not be read any further than {end:.1f} s.")

    def _seconds(self, stamp: int | None, base: Fraction | None) -> float | None:
        """A time stamp on the media's clock, which is at 0 where the first of all streams begins."""
        zero = self._said_zero if self._zero is None else self._zero
        # The same number as fractions make of it, in 0.3 µs instead of 5; recordings have 50 frames a second.
        return None if stamp is None or base is None else stamp * base.numerator / base.denominator - zero

    @property
    def _said_zero(self) -> float:
        return (self.container.start_time or 0) / 1_000_000

    def _found_zero(self, first: AudioFrame) -> float:
        """libav begins Opus of 8 to 24 kHz in Matroska up to 32 ms late: it counts its delay at the wrong rate."""
        if first.pts is None or first.time_base is None:
            return self._said_zero
        # In MP4 the same mistake leaves some of the delay before time 0, where it is to be cut.
        return min(self._said_zero, max(0.0, float(first.pts * first.time_base)))

    def _missing(self, end: float) -> str | None:
        said = self.declared or 0.0
        if said - end > max(SHORT_SECONDS, SHORT_SHARE * said) and not self._is_guess(said):
            return f"{self.name} says it is {said:.1f} s long, but its audio ends at {end:.1f} s."
        if is_cut_off(self.path, self.container.format.name, bytes(self._last) if self._last else b""):
            return f"{self.name} was cut off; its audio ends at {end:.1f} s."
        return None

    def _is_guess(self, declared: float) -> bool:
        """Whether libav made this length up from size and bit rate, as it does for bare MP3 and AAC."""
        rate = self._audio[0].codec_context.bit_rate
        return rate is not None and abs(rate * declared / 8 / self.container.size - 1) < SHORT_SHARE


def open_all(paths: Sequence[Path]) -> tuple[MediaFile | JobError, ...]:
    """Each file, or why it cannot be opened. Raises the first reason where none can."""
    names = [f"File {number}" for number in range(len(paths))] if len(paths) > 1 else ["The file"]
    opened = tuple(_opened(path, name) for path, name in zip(paths, names, strict=True))
    errors = [file for file in opened if isinstance(file, JobError)]
    if len(errors) == len(paths):
        raise errors[0]
    return opened


def close_all(files: Iterable[MediaFile]) -> None:
    for file in files:
        file.close()


def _opened(path: Path, name: str) -> MediaFile | JobError:
    try:
        return MediaFile.open(path, name)
    except JobError as error:
        return error


def _has_decoder(stream: AudioStream) -> bool:
    # PyAV gives a stream whose codec libav has no decoder for no codec context, though its types say otherwise.
    return getattr(stream, "codec_context", None) is not None


def _facts(container: InputContainer, stream: AudioStream) -> StreamFacts:
    if not _has_decoder(stream):
        error = MediaUnsupported("No decoder for the codec of this audio stream is known here.")
        return StreamFacts(stream.index, tags=stream.metadata, error=error)
    context = stream.codec_context
    return StreamFacts(
        number=stream.index,
        codec=context.codec.canonical_name,
        sample_rate=context.sample_rate,
        channels=max(1, context.channels),
        layout=context.layout.name,
        tags=stream.metadata,
        seconds=_end(container, stream),
    )


def _least_bit_rate(stream: AudioStream) -> float | None:
    """Bits a second below which no stream of this codec goes, where its frames simply follow each other in the file."""
    context = stream.codec_context
    match context.codec.canonical_name:
        case "mp3":
            return MP3_LEAST_BIT_RATE
        case "aac":
            return ADTS_HEADER_BITS * context.sample_rate / context.frame_size if context.frame_size else None
        case name if name.startswith(("pcm_", "adpcm_")):  # always the same
            return context.bit_rate
    return None


def _container(path: Path, name: str) -> InputContainer:
    if not path.stat().st_size:
        raise MediaUnsupported(f"{name} is empty.")
    try:
        # Many tags are Latin-1, whatever their format says.
        return av.open(f"file:{path}", "r", options=dict(OPTIONS), metadata_errors="replace")
    except av.FFmpegError as error:
        with path.open("rb") as file:
            head = file.read(12)
        if head[4:8] == b"ftyp":
            raise MediaCorrupt("The MP4 file has no index, so its end is missing; send it whole.") from error
        raise MediaUnsupported(f"{name} is not audio or video in a format that can be read here.") from error


def _end(container: InputContainer, stream: AudioStream) -> float | None:
    """Where the stream is said to end, in seconds; only where it does not say, where the whole file does."""
    if stream.duration is None or stream.time_base is None:
        return container.duration / 1_000_000 if container.duration else None
    end = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    return end - (container.start_time or 0) / 1_000_000
