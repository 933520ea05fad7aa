"""What passes from stage to stage.

JobRequest ─▶ Downloader ─▶ Media ─▶ Demuxer ─▶ TrackAudio ─▶
Transcriber ─▶ TrackTranscript ─▶ Interleaver ─▶ Transcript
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import JobError
from pipeline.transcript import Notice, Segment, Track
from stages.spool import Region, Spool


@dataclass(frozen=True, slots=True)
class Media:
    """The fetched files, in the claim's scratch directory."""

    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Bleed:
    """A stretch of a track in which somebody else is heard: the voice of the track with the id ``source``.

    ``score``: how sure that is, 0 … 1.
    """

    region: Region
    source: str
    score: float


@dataclass(frozen=True, slots=True)
class TrackAudio:
    """One track on its way out of the demuxer; ``spool`` may still grow. ``of`` is how many tracks the job has.

    ``spool`` starts at 0 on the media's clock, whatever ``track.start_offset`` is: earlier samples are silence.
    ``track`` has what is known before it is heard, label and language asked for included. ``speech`` is there where
    the whole track was listened to before it was handed on; ``bleed``, in order and never overlapping, where somebody
    else was heard on it. A track whose ``duplicate_of`` is set is not to be transcribed.
    """

    track: Track
    spool: Spool
    of: int
    speech: tuple[Region, ...] | None = None
    bleed: tuple[Bleed, ...] = ()


@dataclass(frozen=True, slots=True)
class TrackTranscript:
    """One track's words, as utterances in time order on the media's clock. ``track`` is filled in.

    Segment ids are counted within the track; the Interleaver numbers them anew. ``error`` is why the track failed: it
    fails the job only when every track of it has.
    """

    track: Track
    segments: tuple[Segment, ...]
    warnings: tuple[Notice, ...]
    of: int
    error: JobError | None = None
