"""Whose copy it is: in a mix of all microphones, voices belong to the microphones, however loud the mix is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest
from anyio import to_thread

from bench.crosstalk import Outcome, judge, listened
from bench.rooms import Meeting, Room, Sound, Span, meeting, voices, words_of
from stages.crosstalk import find
from stages.spool import SAMPLE_RATE

DRY = Room(bleed=None, seconds=90)  # each with a headset: nobody is heard on another's track


@pytest.fixture(scope="module")
def spoken(media: Path) -> list[Sound]:
    return voices(media)


def told(held: Meeting, folder: Path) -> Outcome:
    async def run() -> Outcome:
        heard = [await listened(folder / f"{number}:0", samples) for number, samples in enumerate(held.tracks)]
        return judge(held, heard, await to_thread.run_sync(find, heard))

    return anyio.run(run)


def with_mix(held: Meeting, decibels: float, late: int = 0, tracks: Sequence[int] = (0, 1, 2)) -> Meeting:
    """The same with a mix of all as the first track, and after it only some of the others; ``late`` in samples.

    Words of those who have no track are the mix's own.
    """
    whole = sum(samples.astype(float) for samples in held.tracks) * 10 ** (decibels / 20)
    sounds = [np.roll(whole, late), *(held.tracks[n] for n in tracks)]
    said = [[(start + late, end + late) for start, end in words[n]] for n, words in enumerate(held.words)]
    own = [word for n, words in enumerate(said) if n not in tracks for word in words]
    words: list[list[Sequence[Span]]] = [[own, *(said[n] for n in tracks)]]
    words += [[[], *(held.words[n][speaker] for speaker in tracks)] for n in tracks]
    return Meeting([np.clip(sound, -32768, 32767).astype(np.int16) for sound in sounds], words)


@pytest.mark.parametrize(("decibels", "late"), [(6, 0), (0, 0), (0, 320), (4, -320), (-6, 0)])
def test_a_mix_beside_the_microphones_has_copies_only_and_each_keeps_his_words(
    decibels: float, late: int, tmp_path: Path, spoken: list[Sound]
) -> None:
    outcome = told(with_mix(meeting(DRY, spoken, seed=11), decibels, late), tmp_path)
    assert outcome.lost == 0
    assert outcome.found >= 0.95 * outcome.doubled > 100
    assert outcome.named >= 0.95 * outcome.found


def test_a_mix_keeps_who_has_no_track_of_his_own(tmp_path: Path, spoken: list[Sound]) -> None:
    outcome = told(with_mix(meeting(DRY, spoken, seed=11), 4, tracks=(0, 2)), tmp_path)
    assert outcome.lost <= 0.01 * outcome.own
    assert outcome.found >= 0.95 * outcome.doubled > 100


@pytest.mark.parametrize("decibels", [4, -6])
def test_beside_a_mix_people_in_one_room_keep_their_words_too(
    decibels: float, tmp_path: Path, spoken: list[Sound]
) -> None:
    outcome = told(with_mix(meeting(replace(DRY, bleed=-12), spoken, seed=11), decibels), tmp_path)
    assert outcome.lost <= 0.01 * outcome.own
    assert outcome.found >= 0.95 * outcome.doubled > 100


def test_who_alone_speaks_in_a_room_full_of_microphones_is_no_mix(tmp_path: Path, spoken: list[Sound]) -> None:
    outcome = told(meeting(Room(bleed=-6, seconds=60, gains=0, silent=(1, 2)), spoken, seed=11), tmp_path)
    assert outcome.lost == 0
    assert outcome.found >= 0.95 * outcome.doubled > 100


def test_who_is_heard_now_on_one_and_now_on_another_track_is_no_mix_where_most_is_on_none(
    tmp_path: Path, spoken: list[Sound]
) -> None:
    """Microphones that are open for a moment each."""
    talk, noise = np.concatenate(spoken), np.random.default_rng(3)
    sounds, words = [talk], [words_of(talk)]
    for opened in (5 * SAMPLE_RATE, 25 * SAMPLE_RATE):
        closed = 1e-4 * noise.standard_normal(len(talk))
        heard = slice(opened, opened + 8 * SAMPLE_RATE)
        closed[heard] += 0.5 * talk[heard]
        sounds.append(closed)
        words.append([(start, end) for start, end in words[0] if heard.start <= start < end <= heard.stop])
    tracks = [(sound * 32767).astype(np.int16) for sound in sounds]
    outcome = told(Meeting(tracks, [[words[0], [], []], [words[1], [], []], [words[2], [], []]]), tmp_path)
    assert outcome.lost == 0
    assert outcome.found >= 0.95 * outcome.doubled > 20


def test_who_hears_two_callers_and_comes_back_on_the_line_of_one_is_no_mix(tmp_path: Path, spoken: list[Sound]) -> None:
    """What he has in common with one, and with the other, is never there at once; but he is louder than his echo."""
    said, noise = np.concatenate(spoken), np.random.default_rng(3)
    host, first, second = (1e-4 * noise.standard_normal(40 * SAMPLE_RATE) for _ in range(3))
    talk, answer = said[: 20 * SAMPLE_RATE], said[-15 * SAMPLE_RATE :]
    host[SAMPLE_RATE:][: len(talk)] += talk
    first[SAMPLE_RATE + 1600 :][: len(talk)] += 0.1 * talk
    second[22 * SAMPLE_RATE :][: len(answer)] += answer
    host[22 * SAMPLE_RATE + 160 :][: len(answer)] += 0.2 * answer
    sounds = [(sound * 32767).astype(np.int16) for sound in (host, first, second)]
    talked = [(start + SAMPLE_RATE, end + SAMPLE_RATE) for start, end in words_of(talk)]
    answered = [(start + 22 * SAMPLE_RATE, end + 22 * SAMPLE_RATE) for start, end in words_of(answer)]
    held = Meeting(sounds, [[talked, [], answered], [talked, [], []], [[], [], answered]])
    outcome = told(held, tmp_path)
    assert outcome.lost == 0
    assert outcome.found >= 0.95 * outcome.doubled > 50
