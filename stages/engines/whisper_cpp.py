"""Whisper through whisper.cpp: one context of one thread a lane, or one on Metal, each with weights of its own.

There are no batches: a window is read by whisper.cpp as a recording of its own, all of it at once.
"""

from __future__ import annotations

import platform
import sys
from codecs import getincrementaldecoder
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from queue import SimpleQueue
from statistics import fmean
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, EngineLost
from pipeline.settings import EngineSettings, cores
from pipeline.transcript import EngineInfo
from stages.engines import CancelFlag, Capabilities, Draft, Options, Window, WindowError, weights
from stages.engines.allocator import give_back_freed_memory
from stages.engines.checks import compression_ratio
from stages.engines.device import nice_threads
from stages.engines.frames import FRAMES, HOP, hears_short_windows
from stages.engines.ggml import Model
from stages.engines.whisper_context import Context, How, Reading, Token, languages
from stages.engines.windows import NOBODY, flaw, nothing, told, translates
from stages.engines.words import APPENDED, PREPENDED, Aligned, timed

FAINT: Final = 10 ** (-55 / 20)  # -55 dBFS: the gate before Silero lets nothing below it pass either
SPACELESS: Final = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # as in openai/whisper, tokenizer.py
METAL_THREADS: Final = 4  # whisper.cpp's default, for what the processor does beside

# Weights that hear as well when the encoder is given less than 30 s: bytes of the file that the conversion tool makes,
# and the SHA-256 of what stands behind its mel filters. A file made elsewhere, with its weights in another order, is
# given 30 s. Of 14 clips of 2-11 s in four languages, read greedily, 31 words of 218 are wrong either way, in 21.8 CPU
# s for 51.6. With 500 positions at least, 34 are wrong.
HEAR_SHORT_WINDOWS: Final[Mapping[int, str]] = {
    147_951_465: "1cb55219269ec6085ab83e1badf944d306eac48a94b665901f2b012b9a04de98",  # base
}
FEWEST_POSITIONS: Final = 800  # of 20 ms
POSITIONS_BEHIND: Final = 250
ALL_POSITIONS: Final = 1500

# From 0.5 on whisper.cpp drops the prompt and the text before. 0.8, the most that is asked for, is 0.48 to it.
LESS_RANDOM: Final = 0.6
MOST_RANDOM: Final = 0.49

# Base in float16 on one core: a window's encoding, with its language another one, and a second of speech decoded. No
# other model was measured.
ENCODE_SECONDS: Final = 2.9
DECODE_SECONDS: Final = 0.08


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A window that waits for its context, which makes the features. ``flaw`` says why it cannot be done."""

    samples: NDArray[np.float32]
    options: Options
    flaw: str | None

    @property
    def seconds(self) -> float:
        return len(self.samples) / 16_000

    @property
    def silent(self) -> bool:
        """Too faint for anybody to be heard in it; Whisper would fill it with words of its own."""
        return bool(np.abs(self.samples).max(initial=0.0) <= FAINT)


def load(settings: EngineSettings) -> WhisperCpp:
    device = choose_device(settings.device)
    model = Model.at(weights.find(settings.model, settings, "ggml", progress=True))
    if settings.compute_type not in ("auto", model.compute_type):
        raise ConfigError(
            f"ENGINE__COMPUTE_TYPE={settings.compute_type}, but whisper.cpp computes in the type of its file, here "
            f"{model.compute_type}; set it to auto, or ENGINE__MODEL to a file of another type."
        )
    lanes = 1 if device == "mps" else settings.threads or cores()
    return WhisperCpp(model, name=weights.shown_name(settings.model), device=device, lanes=lanes)


def choose_device(asked: str, *, system: str = sys.platform, machine: str | None = None) -> str:
    """``cpu`` or ``mps``. Raises ``ConfigError`` when a device is asked for that whisper.cpp cannot use here."""
    has_metal = system == "darwin" and (machine or platform.machine()) == "arm64"
    if asked == "cuda":
        raise ConfigError(
            "ENGINE__DEVICE=cuda, but pywhispercpp comes without CUDA; "
            "set it to auto, or ENGINE__BACKEND to faster_whisper."
        )
    if asked == "mps" and not has_metal:
        raise ConfigError(
            "ENGINE__DEVICE=mps, but Metal is only on a Mac with Apple's processor; set it to cpu or auto."
        )
    if asked == "auto":
        return "mps" if has_metal else "cpu"
    return asked


class WhisperCpp:
    """Memory is that of the weights times the lanes: whisper.cpp's binding has no states that share them."""

    def __init__(self, model: Model, *, name: str, device: str, lanes: int) -> None:
        self._model = model
        self._lanes = lanes
        self._contexts: SimpleQueue[Context] = SimpleQueue()
        self._threads = nice_threads(lanes)
        self._hears_short_windows = hears_short_windows(model.file, HEAR_SHORT_WINDOWS, behind=model.before_weights)
        self.info = EngineInfo(
            backend="whisper_cpp",
            model=name,
            device=device,
            compute_type=model.compute_type,
            version=version("pywhispercpp"),
        )
        self.capabilities = Capabilities(
            lanes=lanes,
            max_batch=1,
            languages=languages(model),
            words=True,
            translate=translates(
                multilingual=model.multilingual,
                encoder_layers=model.dimensions.n_audio_layer,
                decoder_layers=model.dimensions.n_text_layer,
            ),
            prompt=True,
            cancellable=True,
            bytes_per_item=4 * FRAMES * HOP,
        )
        self._open()

    def prepare(self, window: Window) -> Prepared:
        known, multilingual = self.capabilities.languages, self._model.multilingual
        return Prepared(window.samples, window.options, flaw(window, self.info.model, known, multilingual=multilingual))

    def batch_key(self, item: Prepared) -> Hashable:  # noqa: ARG002 - a batch is one window, and any will do
        return None

    def cost(self, item: Prepared) -> float:
        passes = 1 if item.options.language else 2
        return passes * ENCODE_SECONDS + DECODE_SECONDS * item.seconds

    def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        return self._threads.submit(self._run, batch, cancel).result()

    def _run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> list[Draft | WindowError]:
        context = self._contexts.get_nowait()  # there is one for each lane
        try:
            return [self._hear(context, item, cancel) for item in batch]
        finally:
            self._contexts.put(context)

    def unload(self) -> None:
        while not self._contexts.empty():
            self._contexts.get_nowait().close()
        give_back_freed_memory()

    def reload(self) -> None:
        try:
            self._open()
        except (OSError, ConfigError) as error:
            raise EngineLost(f"The model cannot be loaded any more: {error}") from error

    def close(self) -> None:
        self.unload()
        self._threads.shutdown()

    def _open(self) -> None:
        metal = self.info.device == "mps"
        for _ in range(self._lanes):
            self._contexts.put(Context(self._model, metal=metal, threads=METAL_THREADS if metal else 1))

    def _hear(self, context: Context, item: Prepared, cancel: CancelFlag) -> Draft | WindowError:
        if item.flaw:
            return WindowError(item.flaw)
        if item.silent:
            return nothing(item.options, multilingual=self._model.multilingual)
        if cancel.is_set():
            return NOBODY
        try:
            reading = context.read(item.samples, self._how(item), cancel.is_set)
        except RuntimeError as error:
            return WindowError(f"The window cannot be decoded: {error}.")
        return _draft(item, reading) if reading else NOBODY

    def _how(self, item: Prepared) -> How:
        options = item.options
        spoken = told(options, multilingual=self._model.multilingual)
        return How(
            language=spoken.language if spoken else None,
            translate=options.task == "translate" and self._model.multilingual,
            prompt=options.prompt or "",
            before=options.before or "",
            beam=options.beam,
            temperature=min(MOST_RANDOM, LESS_RANDOM * options.temperature),
            positions=self._positions(item),
        )

    def _positions(self, item: Prepared) -> int:
        if not (item.options.short and item.options.language and self._hears_short_windows):
            return ALL_POSITIONS
        return min(ALL_POSITIONS, max(FEWEST_POSITIONS, int(item.seconds * 50) + POSITIONS_BEHIND))


def _draft(item: Prepared, reading: Reading) -> Draft:
    written = "en" if item.options.task == "translate" else reading.language
    words = timed(joined(reading.tokens, spaceless=written in SPACELESS), item.seconds)
    text = "".join(word.word for word in words).strip()
    return Draft(
        text=text,
        words=words if text else (),
        language=reading.language,
        language_probability=reading.language_probability,
        avg_logprob=reading.avg_logprob,
        no_speech_prob=None,
        compression_ratio=compression_ratio(text) if text else None,
        temperature=item.options.temperature,
        cut=not reading.whole,
    )


@dataclass(frozen=True, slots=True)
class Piece:
    """One or more whole characters, by the last token of them."""

    text: str
    start: float
    end: float
    probability: float

    @property
    def spoken(self) -> bool:
        return any(map(str.isalnum, self.text))


def joined(tokens: Iterable[Token], *, spaceless: bool) -> Iterator[Aligned]:
    """Words, each with the marks that cling to it, which are not heard: its times are those of its letters."""
    words: list[list[Piece]] = []
    for piece in _pieces(tokens):
        if words and _clings(piece.text, words[-1][-1].text, spaceless=spaceless):
            words[-1].append(piece)
        else:
            words.append([piece])
    for word in words:
        spoken = [piece for piece in word if piece.spoken] or word
        text = "".join(piece.text for piece in word)
        yield Aligned(text, spoken[0].start, spoken[-1].end, fmean(piece.probability for piece in spoken))


def _pieces(tokens: Iterable[Token]) -> Iterator[Piece]:
    """A character may be spread over several tokens."""
    decode = getincrementaldecoder("utf-8")("ignore").decode
    start = 0.0
    for token in tokens:
        if text := decode(token.content):
            yield Piece(text, start, token.end, token.probability)
            start = token.end


def _clings(text: str, before: str, *, spaceless: bool) -> bool:
    if not spaceless:
        return not text.startswith(" ") or before.strip() in PREPENDED
    return text.strip() in APPENDED or before.strip() in PREPENDED
