"""Mixing: the mean of channels, save where it would be silence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.mixing import Sound, mean

BLOCK = 1000


def noise(seed: int, count: int = 3 * BLOCK) -> Sound:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


@given(count=st.integers(1, 8), gains=st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8))
def test_unlike_channels_are_averaged_however_unequal(count: int, gains: list[float]) -> None:
    channels = np.stack([np.float32(gains[n]) * noise(n) for n in range(count)])
    np.testing.assert_allclose(mean(channels, BLOCK), channels.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("gain", [1.0, 0.9, 1.1])
def test_where_channels_cancel_each_other_out_the_first_stands_for_both(gain: float) -> None:
    one = noise(1)
    np.testing.assert_array_equal(mean(np.stack([one, np.float32(-gain) * one]), BLOCK), one)


def test_a_block_without_cancellation_is_averaged_beside_one_with_it() -> None:
    one, other = noise(1), noise(2)
    other[:BLOCK] = -one[:BLOCK]
    mixed = mean(np.stack([one, other]), BLOCK)
    np.testing.assert_array_equal(mixed[:BLOCK], one[:BLOCK])
    np.testing.assert_allclose(mixed[BLOCK:], (one + other)[BLOCK:] / 2, rtol=1e-5)


def test_silence_stays_silence() -> None:
    assert not mean(np.zeros((2, 3 * BLOCK + 1), np.float32), BLOCK).any()
