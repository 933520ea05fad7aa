"""One context of whisper.cpp, the weights and the memory of one lane, kept from remembering what it heard before.

What the binding does not say is read from whisper.cpp's log: why a model cannot be loaded, and how sure it was of a
language.
"""

from __future__ import annotations

import atexit
import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, EngineLost
from pipeline.languages import LANGUAGES
from stages.engines.ggml import Model

if TYPE_CHECKING:
    from _pywhispercpp import whisper_context_params, whisper_full_params

# Its search for words ends the process below 0.16 s, and it takes 0.1 s for nothing: silence is put behind.
SHORTEST: Final = 16_000  # samples
PROMPT_CHARACTERS: Final = 2_048  # more than the decoder has room for; whisper.cpp's tokenizer recurses over a text
MOST_BEAMS: Final = 8  # WHISPER_MAX_DECODERS
WARN: Final = 3  # ggml_log_level
DETECTED: Final = re.compile(r"auto-detected language: (\w+) \(p = ([0-9.]+)\)")
Samples = NDArray[np.float32]
Log = list[tuple[int, str]]  # level and line
_heard = threading.local()


@dataclass(frozen=True, slots=True)
class How:
    """``language`` None: detect it. ``prompt`` and ``before``: as in ``Options``.

    ``positions``: how much the encoder is given, in 20 ms; 1500 is all that it takes.
    """

    language: str | None
    translate: bool
    prompt: str
    before: str
    beam: int
    temperature: float
    positions: int

    @property
    def draws(self) -> bool:
        """Whether whisper.cpp draws random numbers for it. Its beam search draws the candidates."""
        return self.beam > 1 or self.temperature > 0


@dataclass(frozen=True, slots=True)
class Token:
    """Bytes of text, not always whole characters. ``end``: seconds from the start of the audio."""

    content: bytes
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What was heard: tokens of text, and the mean over them and the end of text of their log-probabilities.

    ``whole``: the end of text came before the limit of tokens. ``language_probability`` only where it was detected.
    """

    tokens: tuple[Token, ...]
    avg_logprob: float | None
    whole: bool
    language: str
    language_probability: float | None


class Context:
    """Reads one window after the other, never two at once. Raises ``ConfigError`` when the model cannot be loaded.

    Parameters stay in the binding's objects from call to call: every reading makes its own.
    """

    def __init__(self, model: Model, *, metal: bool, threads: int) -> None:
        self._model = model
        self._metal = metal
        self._threads = threads
        self._has_drawn = self._was_short = False
        self._native: Any = None
        self._open()

    def close(self) -> None:
        from _pywhispercpp import whisper_free

        if self._native:
            whisper_free(self._native)
        self._native = None

    def read(self, samples: Samples, how: How, abort: Callable[[], bool]) -> Reading | None:
        """What is said in 30 s at most; None when ``abort`` said so, which is asked after the encoder and every token.

        Raises ``RuntimeError`` when it cannot be read, ``EngineLost`` when the model cannot be loaded any more.
        """
        from _pywhispercpp import whisper_full

        self._forget_what_would_tell(how)
        sound = np.pad(samples, (0, max(0, SHORTEST - len(samples))))
        params = self._full_params(how, abort)
        with _listening() as log:
            code = whisper_full(self._native, params, sound, len(sound))
        if code and abort():
            return None
        if code:
            raise RuntimeError(f"whisper.cpp gave up with code {code}")
        return self._reading(log)

    def _forget_what_would_tell(self, how: How) -> None:
        """Make the context anew where a reading would depend on one before it; base takes 0.13 CPU s of a window's 4.

        Random numbers are seeded when a context is made, and go on from there. A language is looked for in as much
        sound as the encoder was given last.
        """
        if (how.draws and self._has_drawn) or (how.language is None and self._was_short):
            self._renew()
            self._has_drawn = False
        self._has_drawn |= how.draws
        self._was_short = how.positions < self._model.dimensions.n_audio_ctx

    def _renew(self) -> None:
        self.close()
        try:
            self._open()
        except (OSError, ConfigError) as error:
            raise EngineLost(f"The model cannot be loaded any more: {error}") from error

    def _open(self) -> None:
        from _pywhispercpp import whisper_free, whisper_init_from_file_with_params

        file = str(self._model.file)
        if self._model.replaced:
            raise ConfigError(f"{file} is another file than it was; start again to take it.")
        with _listening() as log:
            native = whisper_init_from_file_with_params(file, _context_params(self._model, metal=self._metal))
        # Where nothing could be loaded there is a context all the same; only the log tells.
        if wrong := [text for level, text in log if level >= WARN and text.startswith("whisper_")]:
            raise ConfigError(f"whisper.cpp cannot load {file}: {wrong[0]}.")
        if self._metal and any("no GPU found" in text for _, text in log):
            whisper_free(native)
            raise ConfigError("whisper.cpp finds no Metal on this machine; set ENGINE__DEVICE=cpu.")
        self._native = native

    def _full_params(self, how: How, abort: Callable[[], bool]) -> whisper_full_params:
        import _pywhispercpp as native

        strategy = native.WHISPER_SAMPLING_BEAM_SEARCH if how.beam > 1 else native.WHISPER_SAMPLING_GREEDY
        params = native.whisper_full_default_params(strategy)
        params.beam_search = {"beam_size": min(how.beam, MOST_BEAMS), "patience": -1.0}
        params.n_threads = self._threads
        params.language = how.language or ""
        params.translate = how.translate
        params.initial_prompt = self._prompt(how.prompt, how.before)
        params.no_timestamps = True  # words have times from the attention
        params.single_segment = True
        params.suppress_nst = True  # no "(music)", as in Whisper
        params.audio_ctx = how.positions
        params.temperature = how.temperature
        params.temperature_inc = 0.0
        params.print_progress = False
        params.set_abort_callback(abort)
        return params

    def _prompt(self, told: str, before: str) -> str:
        """``told``, and as much of the end of ``before`` as there is room for: whisper.cpp keeps the last tokens."""
        from _pywhispercpp import whisper_tokenize

        def tokens(text: str) -> int:
            with _listening():  # to be asked for a count without room for the tokens is logged as an error
                return abs(int(whisper_tokenize(self._native, text, 0, 0)))

        told, before = (f" {text.strip()[-PROMPT_CHARACTERS:]}" if text else "" for text in (told, before))
        room = self._model.dimensions.n_text_ctx // 2 - tokens(told)
        first = bisect_left(range(len(before)), True, key=lambda start: tokens(before[start:]) <= room)
        return told + before[first:]

    def _reading(self, log: Log) -> Reading:
        from _pywhispercpp import (
            whisper_full_get_token_data,
            whisper_full_lang_id,
            whisper_full_n_segments,
            whisper_full_n_tokens,
            whisper_lang_str,
            whisper_token_eot,
            whisper_token_to_bytes,
        )

        count = whisper_full_n_tokens(self._native, 0) if whisper_full_n_segments(self._native) else 0
        given = [whisper_full_get_token_data(self._native, 0, n) for n in range(count)]
        end = whisper_token_eot(self._native)
        detected = next((found for _, text in log if (found := DETECTED.search(text))), None)
        return Reading(
            tokens=tuple(
                Token(whisper_token_to_bytes(self._native, token.id), token.t_dtw / 100, token.p)
                for token in given
                if token.id < end
            ),
            avg_logprob=fmean(token.plog for token in given) if given else None,
            whole=not given or given[-1].id == end,
            language=whisper_lang_str(whisper_full_lang_id(self._native)) if self._model.multilingual else "en",
            language_probability=float(detected[2]) if detected else None,
        )


def _context_params(model: Model, *, metal: bool) -> whisper_context_params:
    """With times of tokens by dynamic time warping, which flash attention leaves no attention for."""
    import _pywhispercpp as native

    params = native.whisper_context_default_params()
    params.use_gpu = metal
    params.flash_attn = False
    params.dtw_token_timestamps = True
    params.dtw_aheads_preset = getattr(native, f"WHISPER_AHEADS_{model.heads() or 'N_TOP_MOST'}")
    params.dtw_n_top = 1  # whisper.cpp's memory for this holds the heads of one layer of the largest model
    return params


def languages(model: Model) -> frozenset[str]:
    """Whisper's tokens for languages come in one order; a later model knows some more."""
    from _pywhispercpp import whisper_lang_str

    count = model.dimensions.n_vocab - 51_766 if model.multilingual else 1
    return frozenset(whisper_lang_str(n) for n in range(count)) & LANGUAGES


@contextmanager
def _listening() -> Iterator[Log]:
    """What whisper.cpp logs in this thread meanwhile, which goes nowhere else."""
    _take_log()
    log: Log = []
    _heard.log = log
    try:
        yield log
    finally:
        del _heard.log


@cache
def _take_log() -> None:
    from _pywhispercpp import whisper_log_set

    whisper_log_set(_note)
    atexit.register(whisper_log_set, None)  # called after Python has ended, it would end the process


def _note(level: int, text: str) -> None:
    if hasattr(_heard, "log"):
        _heard.log.append((level, text.strip()))
