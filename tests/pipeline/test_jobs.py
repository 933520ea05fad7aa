from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import AntiphonError, JobError, MediaCorrupt, RequestError
from pipeline.jobs import MOVES, JobRequest, JobStatus, Problem, Progress

STAGES = ["pending", "downloading", "demuxing", "transcribing", "interleaving", "committing"]


@given(st.lists(st.tuples(st.sampled_from(STAGES), st.floats(0, 1))))
def test_progress_never_goes_back_whatever_order_the_stages_report_in(reports: list[tuple[str, float]]) -> None:
    progress = Progress()
    for stage, part in reports:
        moved = progress.at(stage, part)
        assert moved.fraction >= progress.fraction
        assert 0 <= moved.fraction <= 1
        progress = moved


def test_ended_jobs_have_no_further_moves() -> None:
    assert {status for status in JobStatus if not MOVES[status]} == {s for s in JobStatus if s.ended}


@pytest.mark.parametrize(
    "wrong",
    [
        {"media_urll": "x"},
        {"processing_mode": "select"},
        {"track_index": 1},
        {"language": "tlh"},
        {"metadata": {"k": "v" * 5000}},
        {"quality": "best"},
        {"external_id": "call\0"},
        {"external_id": "c" * 257},
        {"tracks": [{"index": 0}]},
        {"processing_mode": "multitrack", "tracks": [{"index": 1}, {"index": 1, "label": "again"}]},
        {"processing_mode": "multitrack", "tracks": [{"index": 0, "language": "tlh"}]},
        {"processing_mode": "multitrack", "tracks": [{"index": 0, "label": ""}]},
        {"processing_mode": "multitrack", "tracks": [{"index": 0, "offset_seconds": float("inf")}]},
        {"processing_mode": "multitrack", "tracks": [{"index": 0, "offset_seconds": 43_200.5}]},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        JobRequest.model_validate({"media_url": "https://m.test/a", **wrong})


def test_what_is_known_of_tracks_goes_with_the_modes_that_have_them() -> None:
    tracks = [{"index": 1, "label": "agent", "language": "en", "offset_seconds": -0.5}, {"index": 0}]
    for mode in ({"processing_mode": "multitrack"}, {"processing_mode": "select", "track_index": 1}):
        kept = JobRequest.model_validate({**mode, "tracks": tracks}).tracks
        assert [(track.index, track.label) for track in kept] == [(1, "agent"), (0, None)]


def _leaves(cls: type[AntiphonError]) -> list[type[AntiphonError]]:
    return [leaf for sub in cls.__subclasses__() for leaf in (_leaves(sub) or [sub])]


def test_every_error_has_a_code_of_its_own_and_a_title() -> None:
    leaves = [*_leaves(RequestError), *_leaves(JobError)]
    assert len({leaf.code for leaf in leaves}) == len(leaves)
    assert all(leaf().title and leaf.status >= 400 for leaf in leaves)


def test_an_error_outside_the_tree_keeps_its_text_to_the_log() -> None:
    problem = Problem.of(ValueError("password=hunter2"), stage="demuxer", attempt=1)
    assert problem.code == "internal"
    assert "hunter2" not in problem.model_dump_json()
    assert Problem.of(MediaCorrupt("cut short", track="1:0")).track == "1:0"
