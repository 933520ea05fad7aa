"""What ``antiphon transcribe`` is asked: its arguments, and the order that they make."""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from api.requests import in_words
from api.transcripts import FORMS
from pipeline.errors import ConfigError
from pipeline.jobs import JobRequest


@dataclass(frozen=True, slots=True)
class Order:
    """What to transcribe, and how to show it. ``files`` is empty where ``request`` has a URL."""

    request: JobRequest
    files: tuple[Path, ...]
    form: str


def describe(parser: ArgumentParser) -> None:
    """Give ``parser`` the arguments that ``read`` reads, and ``--once``."""
    parser.add_argument(
        "recordings",
        nargs="+",
        metavar="FILE-or-URL",
        help="any audio or video file, or an http(s) address of one; several files are the tracks of one recording",
    )
    parser.add_argument("--format", choices=list(FORMS), default="text")
    parser.add_argument("--language", help="spoken language, such as en; default: detected, on each track")
    parser.add_argument("--quality", choices=["fast", "balanced", "accurate"], default="balanced")
    parser.add_argument("--prompt", help="names and words to expect")
    parser.add_argument("--words", action="store_true", help="times of single words, in json")
    parser.add_argument("--once", action="store_true", help="in this process alone: no server, no database")
    _describe_tracks(parser)


def _describe_tracks(parser: ArgumentParser) -> None:
    tracks = parser.add_argument_group("tracks", "A track is an audio stream, or one channel of it.")
    tracks.add_argument(
        "--mode",
        choices=["downmix", "select", "multitrack"],
        help="default: downmix, which mixes everything; select with --track; multitrack with labels or several files",
    )
    tracks.add_argument("--track", type=_index, metavar="N", help="the one to select, counted from 0")
    tracks.add_argument(
        "--split",
        choices=["auto", "always", "never"],
        help="whether each channel of a stream is a track; default: auto, if different people speak in them",
    )
    tracks.add_argument(
        "--crosstalk",
        choices=["off", "mark", "suppress"],
        help="a voice on somebody else's microphone: not looked for, marked in json (default), or left out",
    )
    tracks.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME",
        help="who speaks; again for each further track, in order; default: the title that the file gives the track",
    )


def read(asked: Namespace) -> Order:
    """Raises ``ConfigError`` when what is asked does not go together, or a file cannot be read."""
    first, *more = asked.recordings
    if not more and _is_url(first):
        return Order(_request(asked, media_url=first), (), asked.format)
    return Order(_request(asked), tuple(map(_file, asked.recordings)), asked.format)


def _request(asked: Namespace, **source: str) -> JobRequest:
    wanted = {
        **source,
        "processing_mode": _mode(asked),
        "track_index": asked.track,
        "split_channels": asked.split,
        "tracks": [{"index": n, "label": label} for n, label in enumerate(asked.label, start=asked.track or 0)],
        "crosstalk": asked.crosstalk,
        "language": asked.language,
        "quality": asked.quality,
        "prompt": asked.prompt,
        "word_timestamps": asked.words,
    }
    try:
        return JobRequest.model_validate({member: value for member, value in wanted.items() if value is not None})
    except ValidationError as error:
        told = (f"{row['loc'][-1]}: {in_words(row)}" for row in error.errors())
        raise ConfigError("; ".join(told)) from error


def _mode(asked: Namespace) -> str:
    """The mode that was asked for, or that the rest of what was asked means."""
    several = len(asked.recordings) > 1
    meant = "select" if asked.track is not None else "multitrack" if several or asked.label else "downmix"
    mode: str = asked.mode or meant
    if several and mode != "multitrack":
        raise ConfigError("Several files are the tracks of one recording: they need --mode multitrack, and no --track.")
    if (mode == "select") != (asked.track is not None):
        raise ConfigError("--mode select and --track N go together.")
    if mode == "downmix" and (asked.label or asked.split):
        raise ConfigError("A downmix has no tracks to label or to split; say --mode multitrack.")
    if mode != "multitrack" and asked.crosstalk:
        raise ConfigError("Cross-talk is looked for between tracks; say --mode multitrack.")
    return mode


def _file(recording: str) -> Path:
    if _is_url(recording):
        raise ConfigError("An http(s) address is transcribed alone; several tracks are given as files.")
    if not (file := Path(recording)).is_file():
        raise ConfigError(f"There is no file {recording!r}; give a file or an http(s) address.")
    if not os.access(file, os.R_OK):
        raise ConfigError(f"The file {recording!r} may not be read by this user.")
    return file


def _is_url(recording: str) -> bool:
    return recording.partition("://")[0].lower() in ("http", "https")


def _index(text: str) -> int:
    if (number := int(text)) < 0:
        raise ArgumentTypeError(f"{text} is below 0")
    return number
