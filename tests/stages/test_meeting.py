"""The meeting that is measured with: for every number of tracks the same words, and a turn at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.clips import RATE
from bench.meeting import HUSH, Meeting, meeting
from tests.stages.making import sound_of


def talking(held: Meeting) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Where somebody speaks on which track, in tenths of a second; shape (tracks, n)."""
    tenth = RATE // 10
    levels = [np.square(sound[: len(sound) // tenth * tenth].reshape(-1, tenth)).mean(axis=1) for sound in held.sounds]
    return np.sqrt(levels) > 10 * HUSH


@pytest.mark.parametrize("tracks", [1, 2, 4, 8])
def test_the_same_is_said_on_any_number_of_tracks(tracks: int) -> None:
    held = meeting(tracks, turns=9)
    assert held.tracks == tracks
    assert sorted(" ".join(held.said).split()) == sorted(" ".join(meeting(1, turns=9).said).split())


@pytest.mark.parametrize("tracks", [2, 4, 8])
def test_one_person_speaks_at_a_time_but_for_a_tenth(tracks: int) -> None:
    together = talking(meeting(tracks, turns=24)).sum(axis=0)
    assert together.max() == 2
    assert np.mean(together[together > 0] == 2) == pytest.approx(0.1, abs=0.01)


def test_each_track_is_a_stream_and_can_be_a_file(tmp_path: Path) -> None:
    held = meeting(2, turns=2)
    whole, _ = sound_of(held.save(tmp_path / "meeting.mkv"))
    first, second = [sound_of(path)[0][0] for path in held.save_apart(tmp_path)]
    assert whole[0] == pytest.approx(first)
    assert first == pytest.approx(held.sounds[0], abs=1e-4)
    assert second == pytest.approx(held.sounds[1], abs=1e-4)
