from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import pytest

from api.order import Order, describe, read
from pipeline.errors import ConfigError
from pipeline.jobs import JobRequest, TrackRequest

URL = "https://media.test/call.mkv"


def order(*arguments: str) -> Order:
    parser = ArgumentParser()
    describe(parser)
    return read(parser.parse_args(arguments))


@pytest.fixture(autouse=True)
def _recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files ``a`` and ``b`` in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(name).write_bytes(b"RIFF")


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        ("a", JobRequest()),
        ("a --mode downmix --quality fast", JobRequest(quality="fast")),
        ("a --quality accurate", JobRequest(quality="accurate")),
        ("a --track 1", JobRequest(processing_mode="select", track_index=1)),
        (
            "a --track 2 --label agent",
            JobRequest(processing_mode="select", track_index=2, tracks=(TrackRequest(index=2, label="agent"),)),
        ),
        (
            "a --track 1 --split always",
            JobRequest(processing_mode="select", track_index=1, split_channels="always"),
        ),
        (
            "a --mode multitrack --split never --crosstalk off",
            JobRequest(processing_mode="multitrack", split_channels="never", crosstalk="off"),
        ),
        (
            "a --label agent --label customer",
            JobRequest(
                processing_mode="multitrack",
                tracks=(TrackRequest(index=0, label="agent"), TrackRequest(index=1, label="customer")),
            ),
        ),
        ("a b --crosstalk suppress", JobRequest(processing_mode="multitrack", crosstalk="suppress")),
        (f"{URL} --mode multitrack", JobRequest(media_url=URL, processing_mode="multitrack")),
    ],
)
def test_a_track_labels_and_several_files_say_which_mode_is_meant(arguments: str, request_: JobRequest) -> None:
    assert order(*arguments.split()).request == request_


def test_several_files_keep_their_order() -> None:
    assert order("b", "a", "b").files == (Path("b"), Path("a"), Path("b"))
    assert order(URL).files == ()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("a b --mode downmix", "need --mode multitrack"),
        ("a b --track 1", "and no --track"),
        ("a --mode select", "go together"),
        ("a --track 1 --mode multitrack", "go together"),
        ("a --mode downmix --label agent", "say --mode multitrack"),
        ("a --split auto", "A downmix has no tracks to label or to split; say --mode multitrack."),
        ("a --crosstalk suppress", "Cross-talk is looked for between tracks; say --mode multitrack."),
        ("a --track 0 --crosstalk mark", "Cross-talk is looked for between tracks; say --mode multitrack."),
        (f"a {URL}", "is transcribed alone"),
        (f"{URL} {URL}", "is transcribed alone"),
        ("a absent", "There is no file 'absent'"),
        ("a --language tlh", "language: Whisper does not know the language 'tlh'"),
        (f"a --label {'x' * 129}", "label: This may have at most 128 characters."),
        ("a --label \u200b", "label: Nothing of this label can be seen"),
        ("a --track 10001", "track_index: This must be at most 10000."),
    ],
)
def test_what_does_not_go_together_is_told_in_one_line(arguments: str, says: str) -> None:
    with pytest.raises(ConfigError) as told:
        order(*arguments.split())
    assert says in str(told.value)
    assert len(str(told.value).splitlines()) == 1
