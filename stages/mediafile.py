"""A media file, opened so that libav can open nothing beside it: its audio streams, their frames, its faults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from pipeline.errors import MediaCorrupt, MediaUnsupported
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


@dataclass(eq=False, slots=True)
class MediaFile:
    """One open file, and what went wrong while it was read. ``declared``: the length it claims to have."""

    path: Path
    container: InputContainer
    streams: tuple[AudioStream, ...]
    declared: float | None
    unreadable: int = 0
    damaged: int = 0
    _last: Packet[AudioStream] | None = None

    @classmethod
    def open(cls, path: Path) -> MediaFile:
        """Raises ``MediaUnsupported`` or ``MediaCorrupt`` when there is nothing in it to decode."""
        container = _container(path)
        for stream in container.streams:
            stream.discard = av.stream.Discard.none if stream.type == "audio" else av.stream.Discard.all
        audio = container.streams.audio
        if not audio:
            raise MediaUnsupported("The file has no audio stream.")
        # PyAV gives a stream whose codec libav has no decoder for no codec context, though its types say otherwise.
        streams = tuple(stream for stream in audio if getattr(stream, "codec_context", None) is not None)
        if not streams:
            raise MediaUnsupported(
                f"No decoder for the audio codec of this {container.format.name} file is known here."
            )
        for stream in streams:
            stream.codec_context.thread_count = 1
        return cls(path, container, streams, _declared(container, streams), unreadable=len(audio) - len(streams))

    def packets(self) -> Iterator[Packet[AudioStream]]:
        """Each stream ends with an empty packet that flushes its decoder; after a read error nothing more comes."""
        try:
            for packet in self.container.demux(self.streams):
                self.damaged += packet.is_corrupt
                self._last = packet if packet.size else self._last
                yield packet
        except av.FFmpegError:
            self.damaged += 1

    def frames(self, packet: Packet[AudioStream]) -> Iterator[tuple[AudioFrame, float | None]]:
        """Each frame with its start in seconds on the media's clock, where the file tells."""
        try:
            decoded = packet.decode()
        except av.FFmpegError:
            self.damaged += 1
            return
        zero = (self.container.start_time or 0) / 1_000_000
        for frame in decoded:
            at = None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base) - zero
            yield frame, at

    def notices(self, end: float) -> Iterator[Notice]:
        """What the client should know, now that the audio was found to end at ``end`` seconds."""
        if missing := self._missing(end):
            yield Notice(code="media-truncated", detail=missing)
        if self.damaged:
            detail = f"{self.damaged} pieces of the file could not be decoded and are missing."
            yield Notice(code="media-damaged", detail=detail)
        if self.unreadable:
            detail = f"{self.unreadable} audio streams have a codec that is not known here and are left out."
            yield Notice(code="stream-unsupported", detail=detail)

    def _missing(self, end: float) -> str | None:
        said = self.declared or 0.0
        if said - end > max(SHORT_SECONDS, SHORT_SHARE * said) and not self._is_guess(said):
            return f"The file says it is {said:.1f} s long, but its audio ends at {end:.1f} s."
        if is_cut_off(self.path, self.container.format.name, bytes(self._last) if self._last else b""):
            return f"The file was cut off; its audio ends at {end:.1f} s."
        return None

    def _is_guess(self, declared: float) -> bool:
        """Whether libav made this length up from size and bit rate, as it does for bare MP3 and AAC."""
        rate = self.streams[0].codec_context.bit_rate
        return rate is not None and abs(rate * declared / 8 / self.container.size - 1) < SHORT_SHARE


def open_all(paths: Iterable[Path]) -> tuple[MediaFile, ...]:
    return tuple(MediaFile.open(path) for path in paths)


def _container(path: Path) -> InputContainer:
    try:
        # Many tags are Latin-1, whatever their format says.
        return av.open(f"file:{path}", "r", options=dict(OPTIONS), metadata_errors="replace")
    except av.FFmpegError as error:
        with path.open("rb") as file:
            head = file.read(12)
        if head[4:8] == b"ftyp":
            raise MediaCorrupt("The MP4 file has no index, so its end is missing; send it whole.") from error
        raise MediaUnsupported("The file is not audio or video in a format that can be read here.") from error


def _declared(container: InputContainer, streams: Iterable[AudioStream]) -> float | None:
    """How long the audio is said to be, in seconds; only where the streams do not say, how long the whole file is."""
    ends = [_end(stream) for stream in streams]
    if None not in ends:
        return max(end for end in ends if end is not None) - (container.start_time or 0) / 1_000_000
    return container.duration / 1_000_000 if container.duration else None


def _end(stream: AudioStream) -> float | None:
    if stream.duration is None or stream.time_base is None:
        return None
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
