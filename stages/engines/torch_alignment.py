"""When each word of a window was said, found in the attention of Whisper's decoder on PyTorch.

What openai/whisper, timing.py, works out for one recording, but from an encoding that is there already: encoding is
most of what its word times cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stages.engines.torch_decoder import Decoder
from stages.engines.torch_device import Head
from stages.engines.words import APPENDED, PREPENDED, Aligned

if TYPE_CHECKING:
    from torch import Tensor
    from whisper.tokenizer import Tokenizer

SMOOTHED = 7  # frames of the median filter; the library's default
FRAMES_A_SECOND = 50  # of the encoding


def compile_ahead() -> None:
    """The search is compiled when it is first called, 2.5 CPU seconds: at the start and not in somebody's window."""
    from whisper.timing import dtw_cpu

    dtw_cpu(np.zeros((1, 1)))


def find_words(
    decoder: Decoder, heads: Sequence[Head], tokenizer: Tokenizer, start: Sequence[int], text: list[int], frames: int
) -> list[Aligned]:
    """Words of the one window that the decoder is turned to, with nothing written yet.

    ``start``: the tokens before the text. ``text``: its tokens, at least one. ``frames``: of the encoding, those that
    are not silence behind the speech.
    """
    from whisper.timing import WordTiming, merge_punctuations

    queries, logits = _listen(decoder, heads, [*start, *text, tokenizer.eot])
    times = _times(_attention(decoder, queries, heads, frames)[len(start) - 1 : -1])
    chances = logits[0, len(start) - 1 : -2, : tokenizer.eot].softmax(-1)
    probabilities = chances[range(len(text)), text].tolist()
    words, begin = [], 0
    for word, tokens in list(zip(*tokenizer.split_to_word_tokens([*text, tokenizer.eot]), strict=True))[:-1]:
        end = begin + len(tokens)
        words.append(WordTiming(word, tokens, times[begin], times[end], float(np.mean(probabilities[begin:end]))))
        begin = end
    merge_punctuations(words, PREPENDED, APPENDED)  # a mark moves to its word and leaves "" behind
    return [Aligned(of.word, of.start, of.end, of.probability) for of in words if of.word]


def _listen(decoder: Decoder, heads: Sequence[Head], tokens: Sequence[int]) -> tuple[dict[int, Tensor], Tensor]:
    """What each layer that has such a head asks of the sound, shape (1, tokens, width), and the logits."""
    queries: dict[int, Tensor] = {}
    blocks = decoder.whisper.decoder.blocks
    hooks = [
        blocks[layer].cross_attn.query.register_forward_hook(
            lambda _query, _inputs, asked, layer=layer: queries.update({layer: asked})
        )
        for layer in {layer for layer, _ in heads}
    ]
    try:
        return queries, decoder.read([tokens])
    finally:
        for hook in hooks:
            hook.remove()


def _attention(decoder: Decoder, queries: dict[int, Tensor], heads: Sequence[Head], frames: int) -> Tensor:
    """How much more than its neighbours each token listens to each frame: float32, shape (tokens, frames)."""
    import torch
    from whisper.timing import median_filter

    count = decoder.whisper.dims.n_text_head
    asked = [queries[layer][0].chunk(count, -1)[head] for layer, head in heads]
    heard = [decoder.keys(layer)[0, :frames].chunk(count, -1)[head] for layer, head in heads]
    scale = asked[0].shape[-1] ** -0.25  # on both sides, so that half precision does not overflow
    products = (torch.stack(asked) * scale) @ (torch.stack(heard) * scale).mT
    weights = products.float().softmax(-1)
    std, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    smooth: Tensor = median_filter((weights - mean) / std, SMOOTHED)
    return smooth.mean(0)


def _times(attention: Tensor) -> list[float]:
    """Seconds at which each token of the attention begins; the shortest way through it, by dynamic time warping."""
    from whisper.timing import dtw_cpu

    # Widened on the CPU: Metal has no float64, and the library's own ``dtw`` asks it for that.
    tokens, frames = dtw_cpu(-attention.cpu().double().numpy())
    begins = np.diff(tokens, prepend=-1).astype(bool)
    times: list[float] = (frames[begins] / FRAMES_A_SECOND).tolist()
    return times
