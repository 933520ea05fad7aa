"""The texts that a search keeps side by side while it decodes one window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Candidate = tuple[int, float]
"""A next token, and its log-probability after the text it would continue."""


@dataclass(frozen=True, slots=True)
class Text:
    """Tokens without the end of text, which ``logprob``, a sum, counts once it has come (``ended``)."""

    tokens: tuple[int, ...] = ()
    logprob: float = 0.0
    ended: bool = False

    @property
    def avg_logprob(self) -> float:
        return self.logprob / (len(self.tokens) + 1)


class Beam:
    """Beam search as in openai/whisper, decoding.py, with its patience of 1; a width of 1 is greedy.

    ``open``: the texts that go on, the most probable first; one at the start, then ``width`` if that many are offered.
    """

    def __init__(self, width: int, end: int) -> None:
        self.open: Sequence[Text] = [Text()]
        self._width = width
        self._end = end
        self._ended: list[Text] = []

    @property
    def done(self) -> bool:
        return len(self._ended) >= self._width

    def advance(self, offered: Sequence[Sequence[Candidate]]) -> list[int]:
        """Go on with the best of the candidates that are offered for each open text.

        Gives, for each text that is open now, the place of the one it continues.
        """
        ranked = sorted(
            (
                (text.logprob + logprob, source, token)
                for source, (text, candidates) in enumerate(zip(self.open, offered, strict=True))
                for token, logprob in candidates
            ),
            key=lambda candidate: candidate[0],
            reverse=True,
        )
        former, self.open, sources = self.open, [], []
        for total, source, token in ranked:
            tokens = former[source].tokens
            if token != self._end:
                self.open.append(Text((*tokens, token), total))
                sources.append(source)
            elif not self.done:
                self._ended.append(Text(tokens, total, ended=True))
            if len(sources) == self._width:
                break
        if not sources:  # all that was offered ended it: the row keeps its place while its neighbours go on
            self.open, sources = former, list(range(len(former)))
        return sources

    def best(self) -> Text:
        """The most probable a token of those that ended, and of the best still open if fewer than ``width`` have."""
        texts = [*self._ended, *self.open[: self._width - len(self._ended)]]
        return max(texts, key=lambda text: text.logprob / max(1, len(text.tokens)))
