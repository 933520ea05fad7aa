"""Whisper's decoder on PyTorch before a batch of windows: each row has a prompt, a language and a task of its own.

A row is one text of one window, and the texts of a window stand side by side. To the attention that listens, they are
positions of one query: what a window sounds like is kept once, however many texts are written for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.engines.beams import Beam, Candidate

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from whisper import Whisper
    from whisper.model import MultiHeadAttention
    from whisper.tokenizer import Tokenizer

Choice = Callable[["Tensor"], list[list[Candidate]]]
"""Candidates for the next token of each row, of its logits: float32, shape (rows, vocabulary)."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """``cut``: the limit of tokens came before the end of the text."""

    tokens: list[int]
    avg_logprob: float
    no_speech_prob: float
    cut: bool


class Decoder:
    """``encodings``: shape (windows, 1500, width). Hooks sit on the model until ``close``: one decoder at a time."""

    def __init__(self, whisper: Whisper, encodings: Tensor) -> None:
        self.whisper = whisper
        blocks = whisper.decoder.blocks
        self._encodings = self._hearing = encodings
        self._heard = {part: part(encodings) for block in blocks for part in _parts(block.cross_attn)}
        self._own = [part for block in blocks for part in _parts(block.attn)]
        # The library reads its position off the first of these: it is of the decoder's own attention.
        nothing = dict.fromkeys(self._own, encodings[:, :0])
        self._cache, self._hooks = whisper.install_kv_cache_hooks({**nothing, **self._heard})
        self._rows = len(encodings)
        self._wanted: Sequence[int] | slice = slice(None)
        for block in blocks:
            self._hooks.append(block.cross_attn.register_forward_pre_hook(self._by_window))
            self._hooks.append(block.cross_attn.register_forward_hook(self._by_row))
        self._hooks.append(whisper.decoder.ln.register_forward_hook(self._only_wanted))

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def keys(self, layer: int) -> Tensor:
        """What a layer listens to in the windows before it: shape (windows, 1500, width)."""
        part = self.whisper.decoder.blocks[layer].cross_attn.key
        keys: Tensor = self._cache[part]
        return keys

    def turn_to(self, windows: slice) -> None:
        """Listen to these windows; nothing is written for them yet."""
        self._hearing = self._encodings[windows]
        self._cache.update({part: heard[windows] for part, heard in self._heard.items()})
        self._cache.update(dict.fromkeys(self._own, self._hearing[:, :0]))

    def read(self, tokens: Sequence[Sequence[int]], positions: Sequence[int] | slice = slice(None)) -> Tensor:
        """Logits, float32, shape (rows, positions, vocabulary), of tokens that go on behind those read before.

        A first read may be of several tokens a row, later ones are of one.
        """
        import torch

        self._rows, self._wanted = len(tokens), positions
        rows = torch.tensor(tokens, device=self._encodings.device)
        logits: Tensor = self.whisper.decoder(rows, self._hearing, kv_cache=self._cache)
        return logits

    def keep(self, sources: Sequence[int], windows: int) -> None:
        """Go on with rows that continue these, of the first ``windows`` windows."""
        import torch

        self._hearing = self._hearing[:windows]
        self._cache.update({part: self._cache[part][:windows] for part in self._heard})
        if list(sources) != list(range(self._rows)):
            chosen = torch.tensor(sources, device=self._encodings.device)
            self._cache.update({part: self._cache[part][chosen] for part in self._own})

    def _by_window(self, _attention: MultiHeadAttention, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        rows, hearing = inputs
        return rows.reshape(len(hearing), -1, rows.shape[-1]), hearing

    def _by_row(self, _attention: MultiHeadAttention, _inputs: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        attended, weights = output
        return attended.reshape(self._rows, -1, attended.shape[-1]), weights

    def _only_wanted(self, _norm: Any, _inputs: Any, states: Tensor) -> Tensor:
        """The vocabulary costs more than all layers: of a long prompt, only the positions asked for meet it."""
        return states[:, self._wanted]


def _parts(attention: MultiHeadAttention) -> tuple[Any, Any]:
    return attention.key, attention.value


@dataclass(frozen=True, slots=True)
class Rules:
    """``suppressed``: tokens that are no speech; ``blank``: those that begin no text.

    ``positions``: how many tokens the decoder has room for, prompt and text together.
    """

    end: int
    no_speech: int
    suppressed: list[int]
    blank: list[int]
    positions: int

    @classmethod
    def of(cls, whisper: Whisper, tokenizer: Tokenizer) -> Rules:
        """As openai/whisper has them by default, without time stamps."""
        from whisper.decoding import DecodingOptions, DecodingTask, SuppressTokens

        filters = DecodingTask(whisper, DecodingOptions(without_timestamps=True)).logit_filters
        suppressed = next(rule.suppress_tokens for rule in filters if isinstance(rule, SuppressTokens))
        blank = [*tokenizer.encode(" "), tokenizer.eot]
        return cls(tokenizer.eot, tokenizer.no_speech, suppressed, blank, whisper.dims.n_text_ctx)

    def longest(self, begun: int) -> int:
        """Tokens that a text may have behind ``begun`` others: half of the positions, which bounds a loop."""
        return min(self.positions // 2, self.positions + 1 - begun)


def detect(decoder: Decoder, tokenizer: Tokenizer, windows: int) -> list[tuple[str, float]]:
    """The most probable language of each window, and how probable it is."""
    logits = decoder.read([[tokenizer.sot]] * windows)[:, -1, list(tokenizer.all_language_tokens)]
    probabilities, places = logits.softmax(-1).max(-1)
    codes = [tokenizer.all_language_codes[place] for place in places.tolist()]
    return list(zip(codes, probabilities.tolist(), strict=True))


def decode(
    decoder: Decoder, prompts: Sequence[Sequence[int]], start: int, choice: Choice, width: int, rules: Rules
) -> list[Decoded]:
    """Texts behind prompts of one length, in which the transcript starts at ``start``; a prompt a window.

    Windows leave the batch from its end: put those first that have most to say.
    """
    beams = [Beam(width, rules.end) for _ in prompts]
    first = decoder.read(prompts, [start, -1])
    no_speech = first[:, 0].softmax(-1)[:, rules.no_speech].tolist()
    logits = first[:, 1]
    logits[:, rules.blank] = -float("inf")
    windows = len(beams)
    for _ in range(rules.longest(len(prompts[0])) - 1):
        sources = _advance(beams[:windows], logits, choice, rules)
        while windows and beams[windows - 1].done:
            windows -= 1
        if not windows:
            break
        texts = [text for beam in beams[:windows] for text in beam.open]
        decoder.keep(sources[: len(texts)], windows)
        logits = decoder.read([text.tokens[-1:] for text in texts])[:, -1]
    else:
        _advance(beams[:windows], logits, choice, rules)
    return [_decoded(beam, probability, rules) for beam, probability in zip(beams, no_speech, strict=True)]


def _advance(beams: Sequence[Beam], logits: Tensor, choice: Choice, rules: Rules) -> list[int]:
    """Write one more token everywhere. Gives, for each row that is open now, the row it continues."""
    logits[:, rules.suppressed] = -float("inf")
    offered, sources, row = choice(logits), [], 0
    for beam in beams:
        rows = range(row, row + len(beam.open))
        sources += [rows[source] for source in beam.advance(offered[rows.start : rows.stop])]
        row = rows.stop
    return sources


def _decoded(beam: Beam, no_speech_prob: float, rules: Rules) -> Decoded:
    best = beam.best()
    words = [token for token in best.tokens if token < rules.end]
    return Decoded(words, best.avg_logprob, no_speech_prob, cut=not best.ended)


def likeliest(width: int) -> Choice:
    """What a beam search of that width has to choose from: one more than it keeps, as one may end the text."""

    def choose(logits: Tensor) -> list[list[Candidate]]:
        values, tokens = logits.topk(width + 1)
        logprobs = values - logits.logsumexp(-1, keepdim=True)
        return [list(zip(*row, strict=True)) for row in zip(tokens.tolist(), logprobs.tolist(), strict=True)]

    return choose


def drawn(temperature: float, seeds: Sequence[int]) -> Choice:
    """One token, drawn for each row by a generator of its own: what is drawn for a window is its own affair."""
    import torch

    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def choose(logits: Tensor) -> list[list[Candidate]]:
        chances = (logits / temperature).softmax(-1).cpu()  # generators of all devices draw differently
        return [_draw(*row) for row in zip(chances, logits.log_softmax(-1).cpu(), generators, strict=False)]

    return choose


def _draw(chances: Tensor, logprobs: Tensor, generator: Generator) -> list[Candidate]:
    token = int(chances.multinomial(1, generator=generator))
    return [(token, float(logprobs[token]))]
