"""Beam search, beside openai-whisper's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.engines.beams import Beam, Candidate

torch = pytest.importorskip("torch")

VOCABULARY = 8
END = 7
STEPS = 6


def next_logits(tokens: Sequence[int], seed: int) -> list[float]:
    """What a model of chance thinks comes next, different for every text; none begins with its end."""
    drawn = np.random.default_rng([seed, *tokens]).normal(0, 2, VOCABULARY)
    return [-np.inf if token == END and not tokens else float(logit) for token, logit in enumerate(drawn)]


def search(width: int, seed: int) -> tuple[list[int], float]:
    beam = Beam(width, END)
    for _ in range(STEPS):
        logits = torch.tensor([next_logits(text.tokens, seed) for text in beam.open])
        values, tokens = logits.log_softmax(-1).topk(width + 1)
        rows = zip(tokens.tolist(), values.tolist(), strict=True)
        offered: list[list[Candidate]] = [list(zip(*row, strict=True)) for row in rows]
        beam.advance(offered)
        if beam.done:
            break
    best = beam.best()
    return list(best.tokens), best.avg_logprob


class Uncached:
    """The library asks to be told in which order its rows go on."""

    def rearrange_kv_cache(self, sources: list[int]) -> None:
        pass


def search_of_the_library(width: int, seed: int) -> tuple[list[int], float]:
    from whisper.decoding import BeamSearchDecoder, MaximumLikelihoodRanker

    decoder = BeamSearchDecoder(width, END, Uncached())
    tokens, sums = torch.zeros((width, 1), dtype=torch.long), torch.zeros(width)
    for _ in range(STEPS):
        logits = torch.tensor([next_logits(row[1:], seed) for row in tokens.tolist()])
        tokens, completed = decoder.update(tokens, logits, sums)
        if completed:
            break
    texts, logprobs = decoder.finalize(tokens[None], sums[None])
    texts = [[text[1 : (text == END).nonzero()[0, 0]] for text in texts[0]]]
    (chosen,) = MaximumLikelihoodRanker(None).rank(texts, logprobs)
    text = texts[0][chosen].tolist()
    return text, logprobs[0][chosen] / (len(text) + 1)


@pytest.mark.filterwarnings("ignore:__array_wrap__")  # the library sorts a tensor by numpy
@given(width=st.integers(1, 6), seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_it_finds_the_text_that_the_library_finds(width: int, seed: int) -> None:
    tokens, avg_logprob = search(width, seed)
    expected, expected_logprob = search_of_the_library(width, seed)
    assert tokens == expected
    assert avg_logprob == pytest.approx(expected_logprob, abs=1e-5)


def test_a_text_that_ended_keeps_its_row_while_its_neighbours_go_on() -> None:
    beam = Beam(1, END)
    beam.advance([[(3, -0.5)]])
    assert beam.advance([[(END, -0.25)]]) == [0]
    assert beam.done
    beam.advance([[(5, -0.125)]])
    best = beam.best()
    assert (best.tokens, best.logprob, best.ended) == ((3,), -0.75, True)


def test_a_text_that_has_not_ended_at_the_limit_says_so() -> None:
    beam = Beam(2, END)
    beam.advance([[(1, -1.0), (2, -2.0), (END, -9.0)]])
    assert not beam.done
    assert not beam.best().ended
    assert beam.best().tokens == (1,)
