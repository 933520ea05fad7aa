"""A transcript in the form a client wants: json, text, srt, vtt or tsv, each with the same words in the same order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from quart import Response, request

from api.middleware import tenant_jobs
from api.requests import read_query
from pipeline.errors import InvalidRequest, JobNotFinished
from pipeline.jobs import Job
from pipeline.transcript import Segment, Transcript, speakers, text_of

MAX_NAMED: Final = 32  # tracks that a refusal names; it must not grow with the recording


async def read_transcript(job_id: UUID) -> Response:
    jobs = tenant_jobs()
    asked = read_query(request.args)
    form = _wanted(asked.get("format"))
    if (transcript := await jobs.transcript(job_id)) is None:
        raise _not_there(await jobs.get(job_id))
    if (track := asked.get("track")) is not None:
        transcript = only(transcript, track)
    return Response(form.render(transcript), content_type=f"{form.media_type}; charset=utf-8")


def only(transcript: Transcript, track_id: str) -> Transcript:
    """What one track says, with the times and ids that it has in the whole.

    Raises ``InvalidRequest`` with the tracks there are.
    """
    tracks = tuple(track for track in transcript.tracks if track.id == track_id)
    if not tracks:
        there = ", ".join(track.id for track in transcript.tracks[:MAX_NAMED])
        raise InvalidRequest(f"There is no track {track_id[:32]!r}; give one of {there}.")
    said = (segment for segment in transcript.segments if segment.track == track_id)
    segments = tuple(segment.model_copy(update={"overlaps": ()}) for segment in said)
    return transcript.model_copy(
        update={
            "text": text_of(tracks, segments),
            "language": tracks[0].language,
            "tracks": tracks,
            "segments": segments,
            "warnings": tuple(notice for notice in transcript.warnings if notice.track in (None, track_id)),
        }
    )


def as_json(transcript: Transcript) -> str:
    return transcript.model_dump_json()


def as_text(transcript: Transcript) -> str:
    return "".join(f"{line.labelled}\n" for line in _lines(transcript))


def as_srt(transcript: Transcript) -> str:
    return "\n".join(
        f"{number}\n{_clock(line.start, ',')} --> {_clock(line.end, ',')}\n{_no_times(line.labelled)}\n"
        for number, line in enumerate(_lines(transcript), 1)
    )


def as_vtt(transcript: Transcript) -> str:
    cues = "".join(
        f"\n{_clock(line.start, '.')} --> {_clock(line.end, '.')}\n{_voice(line)}{_escaped(line.text)}\n"
        for line in _lines(transcript)
    )
    return f"WEBVTT\n{cues}"


def as_tsv(transcript: Transcript) -> str:
    """Times in milliseconds, as Whisper's own command line writes them; ``speaker`` is empty where only one speaks."""
    rows = (f"{line.start}\t{line.end}\t{line.speaker or ''}\t{line.text}\n" for line in _lines(transcript))
    return "".join(["start\tend\tspeaker\ttext\n", *rows])


@dataclass(frozen=True, slots=True)
class Form:
    media_type: str
    render: Callable[[Transcript], str]


FORMS: Final[Mapping[str, Form]] = {
    "json": Form("application/json", as_json),
    "text": Form("text/plain", as_text),
    "srt": Form("application/x-subrip", as_srt),
    "vtt": Form("text/vtt", as_vtt),
    "tsv": Form("text/tab-separated-values", as_tsv),
}


def _wanted(name: str | None) -> Form:
    """What is named decides, then ``Accept``; whoever accepts none of ours is answered in JSON."""
    if name is None:
        best = request.accept_mimetypes.best_match([form.media_type for form in FORMS.values()])
        return next((form for form in FORMS.values() if form.media_type == best), FORMS["json"])
    if name not in FORMS:
        raise InvalidRequest(f"There is no format {name[:32]!r}; give one of {', '.join(FORMS)}.")
    return FORMS[name]


def _not_there(job: Job) -> JobNotFinished:
    if job.status.ended:
        return JobNotFinished(f"This job is {job.status} and will have no transcript.")
    return JobNotFinished(f"This job is {job.status}; ask again later.", retryable=True)


@dataclass(frozen=True, slots=True)
class Line:
    """What is shown of a segment: milliseconds, one line of text, and who speaks when that is a question."""

    start: int
    end: int
    speaker: str | None
    text: str

    @property
    def labelled(self) -> str:
        return f"{self.speaker}: {self.text}" if self.speaker else self.text


def _lines(transcript: Transcript) -> Iterator[Line]:
    names = speakers(transcript.tracks, transcript.segments)
    for segment in transcript.segments:
        if text := _one_line(segment.text):
            yield Line(*_milliseconds(segment), names.get(segment.track), text)


def _one_line(text: str) -> str:
    """A blank line would end a cue, a line break start a new line of text, and a tab a new column."""
    return " ".join(text.split())


def _milliseconds(segment: Segment) -> tuple[int, int]:
    """A cue must end after it starts (WebVTT, section 4.1)."""
    start = round(segment.start * 1000)
    return start, max(start + 1, round(segment.end * 1000))


def _clock(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"


def _no_times(text: str) -> str:
    """SubRip has no way to escape the arrow by which players tell times from text."""
    return text.replace("-->", "→")


def _voice(line: Line) -> str:
    if not line.speaker:
        return ""
    # "--" and the end of the tag would be the arrow by which players tell times from text
    return f"<v {re.sub('-$', '&#45;', _escaped(line.speaker))}>"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
