"""Whisper's tokens around a transcript: what is told before it, where it starts, and where it must end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from pipeline.languages import LANGUAGES

if TYPE_CHECKING:
    import tokenizers
    from faster_whisper.tokenizer import Tokenizer

Task = Literal["transcribe", "translate"]

MAX_TOKENS: Final = 448  # positions of Whisper's decoder, prompt included
PROMPT: Final = MAX_TOKENS // 2 - 1  # as in openai/whisper, decoding.py; one more tells that a prompt follows

# A prompt ends in so many places only, where it can: windows share a batch if their transcripts start at one position.
STEP: Final = 32

# Lao and Burmese take the most tokens, 2.8 a character, and are not spoken faster than 25 characters a second: 70
# tokens. So a window this short is given half as many, and a loop in it holds its lane half as long (base on one core:
# 4.7 s for 221 tokens with a beam of 5).
BRIEF: Final = 1.5  # seconds


def most_tokens(seconds: float) -> int:
    """How long the text of a window may get. Half of the decoder's positions is Whisper's own bound."""
    return MAX_TOKENS // 4 if seconds <= BRIEF else MAX_TOKENS // 2


def max_length(start: int, tokens: int) -> int:
    """CTranslate2's name for the bound: a text ends at half of it, or at it less ``start`` if that is fewer tokens."""
    return min(MAX_TOKENS, max(2 * tokens, start + tokens))


def forbidden_run(temperature: float) -> int:
    """How many tokens in a row may not come twice, in a reading at this temperature; 0: any may.

    Of eight texts that base repeated to a compression ratio over 2.4 – speech backwards, one word over and over, a
    misleading prompt – runs of 5 left three so, runs of 4 two, and runs of 3 one: a sentence that is really said five
    times.
    """
    return max(2, round(5 - 3 * temperature)) if temperature > 0 else 0


class Tokens:
    """The tokens of one model; ``suppressed`` are those that no transcript holds."""

    def __init__(self, vocabulary: tokenizers.Tokenizer, *, multilingual: bool) -> None:
        from faster_whisper.transcribe import get_suppressed_tokens

        self._vocabulary = vocabulary
        self._multilingual = multilingual
        plain = self.of("en", "transcribe")
        self._prompt_follows: int = plain.sot_prev
        self._first_control: int = plain.eot
        self.suppressed: tuple[int, ...] = get_suppressed_tokens(plain, [-1])

    def of(self, language: str, task: Task) -> Tokenizer:
        from faster_whisper.tokenizer import Tokenizer

        tokenizer = Tokenizer(self._vocabulary, self._multilingual, task=task, language=language)
        if task == "translate":
            tokenizer.language_code = "en"  # by which words are told apart
        return tokenizer

    def languages(self) -> frozenset[str]:
        if not self._multilingual:
            return frozenset({"en"})
        return frozenset(code for code in LANGUAGES if self._vocabulary.token_to_id(f"<|{code}|>") is not None)

    def start(self, language: str, task: Task) -> list[int]:
        """Of a transcript without time stamps."""
        tokenizer = self.of(language, task)
        return [*tokenizer.sot_sequence, tokenizer.no_timestamps]

    def told(self, prompt: str | None, before: str | None) -> tuple[int, ...]:
        """All of the prompt, then as much of the end of the text before a window as there is room for."""
        told, earlier = self._encode(prompt)[-PROMPT:], self._encode(before)
        kept = min(len(earlier), PROMPT - len(told))
        if kept >= STEP:
            kept -= (1 + len(told) + kept) % STEP
        told += earlier[len(earlier) - kept :]
        return (self._prompt_follows, *told) if told else ()

    def without_control(self, tokens: Sequence[int]) -> list[int]:
        return [token for token in tokens if token < self._first_control]

    def text(self, tokens: Sequence[int]) -> str:
        return self._vocabulary.decode(tokens).strip()

    def _encode(self, text: str | None) -> list[int]:
        if text is None or not text.strip():
            return []
        return self.without_control(self._vocabulary.encode(f" {text.strip()}", add_special_tokens=False).ids)
