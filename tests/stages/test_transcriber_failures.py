"""What cannot be transcribed: a window, or a track, and what that leaves alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.claim import Claim
from pipeline.errors import EngineFailed, MediaCorrupt
from pipeline.transcript import Notice
from stages.engines import CancelFlag, Draft, WindowError
from stages.engines.mock import MockEngine, Prepared
from tests.stages.transcribing import (
    DAMAGE,
    Samples,
    Scripted,
    known,
    side_by_side,
    spooled,
    steady,
    transcribed,
)


async def test_a_window_that_fails_fails_its_track_and_what_else_was_heard_is_kept(
    claim: Claim, tmp_path: Path, sonnets: Samples
) -> None:
    engine = Scripted(steady(13), WindowError("the decoder is stuck"))
    heard = await transcribed(claim, engine, await spooled(tmp_path / "t", sonnets))
    assert isinstance(heard.error, EngineFailed)
    assert heard.error.detail == "1 of 5 windows: the decoder is stuck."
    assert heard.track.status == "failed"
    assert heard.track.error is not None
    assert (heard.track.error["code"], heard.track.error["stage"]) == ("engine-failed", "transcriber")
    assert [(notice.code, notice.track) for notice in heard.warnings] == [
        ("media-damaged", None),
        ("track-failed", "downmix"),
    ]
    assert len(heard.segments) >= 4
    assert heard.segments[-1].start > 97


async def test_a_track_that_could_not_be_decoded_has_failed_with_that_error(
    claim: Claim, tmp_path: Path, quilter: Samples
) -> None:
    error = MediaCorrupt("Nothing in the file's audio could be decoded.")
    heard = await transcribed(claim, Scripted(), await spooled(tmp_path / "t", quilter, error=error))
    assert (heard.error, heard.track.status) == (error, "failed")
    assert heard.warnings[-1] == Notice(code="track-failed", track="downmix", detail=error.detail)
    assert heard.track.error is not None
    assert (heard.track.error["code"], heard.track.error["stage"]) == ("media-corrupt", "demuxer")


async def test_a_track_that_fails_leaves_the_others_of_its_job_alone(
    claim: Claim, tmp_path: Path, quilter: Samples
) -> None:
    class NoGerman(MockEngine):
        def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
            if any(item.options.language == "de" for item in batch):
                raise RuntimeError
            return super().run(batch, cancel)

    broken = await spooled(tmp_path / "0", error=MediaCorrupt("Nothing in it could be decoded."))
    audios = [broken, *[await spooled(tmp_path / f"{n}", quilter) for n in (1, 2, 3)]]
    languages = ("en", "en", "de", "en")
    tracks = [known(audio, id=f"{n}:0", language=languages[n]) for n, audio in enumerate(audios)]
    heard = await side_by_side(claim, NoGerman(), *tracks)
    assert [part.track.status for part in heard] == ["failed", "transcribed", "failed", "transcribed"]
    assert [part.error and part.error.code for part in heard] == ["media-corrupt", None, "engine-failed", None]
    told = [(notice.code, notice.track) for part in heard for notice in part.warnings if notice != DAMAGE]
    assert told == [("track-failed", "0:0"), ("track-failed", "2:0")]
    assert heard[1].segments
    assert [segment.text for segment in heard[1].segments] == [segment.text for segment in heard[3].segments]
