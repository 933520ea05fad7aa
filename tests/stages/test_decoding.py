"""Decoding: how much of a stream waits to be written, and that what is written does not depend on its packets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anyio import to_thread
from av.audio.frame import AudioFrame

from pipeline.claim import Claim
from stages.clock import Clock, Hand
from stages.disk import Disk, Loan
from stages.lines import LOWEST_RATE, Line, Mix, Source
from stages.spool import SAMPLE_RATE, Spool
from stages.tracks import Feed
from tests.stages.hearing import mixed
from tests.stages.making import Part, Stream, record


@pytest.mark.parametrize("rate", [LOWEST_RATE, 8_000, 48_000])
async def test_at_most_half_a_minute_of_sound_is_held_back(tmp_path: Path, rate: int) -> None:
    source, mix = Source(Hand(Clock()), max_seconds=3600), Mix("0:0", Spool(tmp_path / "track"), Loan(Disk(0), 10**9))
    line = Line(Feed(0, 0), mix, source)
    source.lines.append(line)
    second = AudioFrame.from_ndarray(np.zeros((1, rate), np.int16), "s16", "mono")
    second.sample_rate = rate
    for taken in range(1, 100):
        await to_thread.run_sync(source.take, second, None)
        assert line.position > (taken - 31) * SAMPLE_RATE


async def test_what_is_heard_does_not_depend_on_packets(claim: Claim, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    left = (0.1 * rng.standard_normal((1, 3 * 44_100))).astype(np.float32)
    right = np.where(np.arange(3 * 44_100) < 44_100, -left, 0.5 * left[:, ::-1]).astype(np.float32)
    stream = [Part(0.0, np.concatenate([left, right]))]
    heard = []
    for name, codec in (("x.wav", "pcm_s16le"), ("x.flac", "flac"), ("x.mka", "pcm_s16le")):
        path = record(tmp_path / name, Stream(stream, 44_100, codec))
        samples, _ = await mixed(Claim(claim.job, scratch=claim.scratch), path)
        heard.append(samples)
    assert heard[0][:15_000].std() > 1500
    for other in heard[1:]:
        np.testing.assert_array_equal(heard[0], other)
