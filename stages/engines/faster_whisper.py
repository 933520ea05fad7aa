"""Whisper through CTranslate2: faster-whisper's loader, features and tokens, and a batched decoding of our own.

Windows of different recordings, languages and prompts share a batch, and none gives anything else for it. Text is
decoded without time stamp tokens; the words get their times from the attention afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ConfigError, EngineLost
from pipeline.settings import EngineSettings, cores
from pipeline.transcript import EngineInfo
from stages.engines import CancelFlag, Capabilities, Draft, DraftWord, Options, Window, WindowError, weights
from stages.engines.allocator import give_back_freed_memory, keep_freed_memory
from stages.engines.checks import compression_ratio, is_silence
from stages.engines.device import choose_device, choose_precision, watched, with_nice_threads
from stages.engines.formats import layers
from stages.engines.frames import FRAMES, HOP, Features, hears_short_windows, is_silent, log_mel, short_window
from stages.engines.tokens import Tokens, forbidden_run, max_length, most_tokens
from stages.engines.windows import NOBODY, Spoken, flaw, nothing, told, translates
from stages.engines.words import APPENDED, PREPENDED, Aligned, timed

if TYPE_CHECKING:
    from ctranslate2 import StorageView
    from ctranslate2.models import WhisperGenerationResult
    from faster_whisper import WhisperModel

# Base in int8 on one core: 30 s encoded, and a second of speech decoded. No other model was measured, and wider beams
# take longer: these are expected until a batch has ended, and its own seconds count.
ENCODE_SECONDS = 0.65
DECODE_SECONDS = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A window ready for the encoder. ``features``: log-mel, float32, shape (mels, n), silence behind ``frames``.

    ``told`` are the tokens before the start of the transcript, which may get ``most_tokens`` long. ``flaw`` says why
    this window cannot be done.
    """

    options: Options
    seconds: float
    frames: int
    features: Features
    told: tuple[int, ...]
    most_tokens: int
    flaw: str | None

    @property
    def length(self) -> int:
        """Frames that the encoder is given."""
        return int(self.features.shape[1])

    @property
    def silent(self) -> bool:
        return is_silent(self.features)


@dataclass(frozen=True, slots=True)
class Decoded:
    tokens: list[int]
    avg_logprob: float
    no_speech_prob: float
    cut: bool


def load(settings: EngineSettings) -> FasterWhisper:
    # Read when the library is loaded: OpenMP threads that wait would spin on the cores of other lanes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import ctranslate2
    from faster_whisper import WhisperModel

    device = choose_device(settings.device, cards=ctranslate2.get_cuda_device_count())
    compute_type = choose_precision(settings.compute_type, device, ctranslate2.get_supported_compute_types(device))
    if device == "cpu" and settings.keep_freed_memory:
        keep_freed_memory()
    folder = weights.find(settings.model, settings, progress=True)
    lanes = 1 if device == "cuda" else settings.threads or cores()
    make = partial(WhisperModel, str(folder), device, compute_type=compute_type, cpu_threads=1, num_workers=lanes)
    try:
        whisper = with_nice_threads(make)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"The model in {folder} cannot be loaded on {device}: {error}") from error
    max_batch = settings.max_batch or (16 if device == "cuda" else 8)
    name = weights.shown_name(settings.model)
    return FasterWhisper(whisper, folder, name=name, compute_type=compute_type, lanes=lanes, max_batch=max_batch)


class FasterWhisper:
    """Draws no samples, as CTranslate2 cannot be told where to begin: another reading may not repeat itself instead."""

    def __init__(
        self, whisper: WhisperModel, folder: Path, *, name: str, compute_type: str, lanes: int, max_batch: int
    ) -> None:
        self._whisper = whisper
        self._model = whisper.model
        self._multilingual: bool = whisper.model.is_multilingual
        self._mels: int = whisper.model.n_mels
        # On one core a window of eight took a seventh more than one alone, and the eight 0.6 GB.
        self._together = max_batch if whisper.model.device == "cuda" else 1
        self._hears_short_windows = hears_short_windows(folder / "model.bin")
        encoder_layers, decoder_layers = layers(folder / "model.bin")
        self._tokens = Tokens(whisper.hf_tokenizer, multilingual=self._multilingual)
        width = self._encode_batch([np.zeros((self._mels, 4), np.float32)]).shape[-1]
        self.info = EngineInfo(
            backend="faster_whisper",
            model=name,
            device=whisper.model.device,
            compute_type=compute_type,
            version=version("faster-whisper"),
        )
        self.capabilities = Capabilities(
            lanes=lanes,
            max_batch=max_batch,
            languages=self._tokens.languages(),
            words=True,
            translate=translates(
                multilingual=self._multilingual, encoder_layers=encoder_layers, decoder_layers=decoder_layers
            ),
            prompt=True,
            cancellable=False,
            bytes_per_item=4 * (self._mels * FRAMES + width * FRAMES // 2),
        )

    def prepare(self, window: Window) -> Prepared:
        samples, options, known = window.samples, window.options, self.capabilities.languages
        why = flaw(window, self.info.model, known, multilingual=self._multilingual)
        frames = max(2, len(samples) // HOP)
        # A language is never guessed in less than 30 s.
        short = options.short and options.language is not None and self._hears_short_windows
        length = short_window(frames) if short else FRAMES
        return Prepared(
            options=options,
            seconds=window.seconds,
            frames=frames,
            features=log_mel(self._whisper.feature_extractor, samples[:0] if why else samples, length),
            told=self._tokens.told(options.prompt, options.before),
            most_tokens=most_tokens(window.seconds),
            flaw=why,
        )

    def batch_key(self, item: Prepared) -> Hashable:
        # Languages and tasks may differ in a CTranslate2 batch; where the transcript starts and how it ends may not.
        options = item.options
        return len(item.told), item.most_tokens, item.length, options.beam, options.temperature

    def cost(self, item: Prepared) -> float:
        return ENCODE_SECONDS * item.length / FRAMES + DECODE_SECONDS * item.seconds

    def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        results: list[Draft | WindowError] = [
            WindowError(item.flaw) if item.flaw else nothing(item.options, multilingual=self._multilingual)
            for item in batch
        ]
        audible = [place for place, item in enumerate(batch) if not item.flaw and not item.silent]
        if audible:
            heard = self._hear([batch[place] for place in audible], cancel)
            for place, draft in zip(audible, heard, strict=True):
                results[place] = draft
        return results

    def unload(self) -> None:
        # CTranslate2 does nothing while a worker is still leaving its last batch, up to 30 ms after giving the result.
        self._model.unload_model()
        while self._model.model_is_loaded:
            sleep(0.001)
            self._model.unload_model()
        give_back_freed_memory()

    def reload(self) -> None:
        try:
            self._model.load_model()
        except (RuntimeError, MemoryError) as error:
            raise EngineLost(f"The model {self.info.model!r} cannot be loaded again: {error}") from error

    def close(self) -> None:
        self.unload()

    def _hear(self, items: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        with watched():
            encodings = self._encode(items, cancel)
            if encodings is None:
                return [NOBODY] * len(items)
            spoken = self._detect(items, encodings)
            decoded = self._decode(items, encodings, spoken)
            words = [
                self._align(item, encodings[place : place + 1], of, text)
                for place, (item, of, text) in enumerate(zip(items, spoken, decoded, strict=True))
            ]
        return [self._draft(*parts) for parts in zip(items, spoken, decoded, words, strict=True)]

    def _encode(self, items: Sequence[Prepared], cancel: CancelFlag) -> Features | None:
        """Shape (n, frames / 2, width), or None when cancelled."""
        parts = []
        for start in range(0, len(items), self._together):
            if cancel.is_set():
                return None
            parts.append(self._encode_batch([item.features for item in items[start : start + self._together]]))
        return np.concatenate(parts)

    def _encode_batch(self, features: Sequence[Features]) -> Features:
        from ctranslate2 import DataType

        encoding = self._model.encode(_view(np.stack(features)), to_cpu=True)
        return np.asarray(encoding.to(DataType.float32))

    def _detect(self, items: Sequence[Prepared], encodings: Features) -> list[Spoken]:
        known = [told(item.options, multilingual=self._multilingual) for item in items]
        untold = [place for place, spoken in enumerate(known) if spoken is None]
        if untold:
            for place, ranking in zip(untold, self._model.detect_language(_view(encodings[untold])), strict=True):
                token, probability = ranking[0]
                known[place] = Spoken(token.removeprefix("<|").removesuffix("|>"), float(probability))
        return [spoken for spoken in known if spoken]

    def _decode(self, items: Sequence[Prepared], encodings: Features, spoken: Sequence[Spoken]) -> list[Decoded]:
        prompts = [
            [*item.told, *self._tokens.start(of.language, item.options.task)]
            for item, of in zip(items, spoken, strict=True)
        ]
        options, begin = items[0].options, len(prompts[0]) - 1
        bound = max_length(begin, items[0].most_tokens)
        results = self._model.generate(
            _view(encodings),
            prompts,
            beam_size=options.beam,
            no_repeat_ngram_size=forbidden_run(options.temperature),
            max_length=bound,
            suppress_blank=True,
            suppress_tokens=self._tokens.suppressed,
            return_scores=True,
            return_no_speech_prob=True,
        )
        return [self._decoded(result, most=min(bound // 2, bound - begin)) for result in results]

    def _decoded(self, result: WhisperGenerationResult, *, most: int) -> Decoded:
        tokens = result.sequences_ids[0]
        # the score is a mean over the text; Whisper's avg_logprob counts the end of text as a token too
        avg_logprob = float(result.scores[0]) * len(tokens) / (len(tokens) + 1)
        text = self._tokens.without_control(tokens)
        return Decoded(text, avg_logprob, float(result.no_speech_prob), cut=len(tokens) >= most)

    def _align(self, item: Prepared, encoding: Features, spoken: Spoken, decoded: Decoded) -> tuple[DraftWord, ...]:
        """Words of one window. ``encoding``: shape (1, frames / 2, width).

        One by one: in int8 a longer text in the batch moved the confidence of words by up to 0.08, of 19 windows of 48.
        Of base on one core a window took 33 ms, and 31 in batches of eight.
        """
        from faster_whisper.transcribe import merge_punctuations

        if not decoded.tokens:
            return ()
        tokenizer = self._tokens.of(spoken.language, item.options.task)
        (alignment,) = self._whisper.find_alignment(tokenizer, [decoded.tokens], _view(encoding), [item.frames])
        merge_punctuations(alignment, PREPENDED, APPENDED)  # a mark moves to its word and leaves "" behind
        aligned = (Aligned(w["word"], w["start"], w["end"], w["probability"]) for w in alignment if w["word"])
        return timed(aligned, item.seconds)

    def _draft(self, item: Prepared, spoken: Spoken, decoded: Decoded, words: tuple[DraftWord, ...]) -> Draft:
        silent = is_silence(decoded.no_speech_prob, decoded.avg_logprob)
        text = "" if silent else self._tokens.text(decoded.tokens)
        return Draft(
            text=text,
            words=words if text else (),
            language=spoken.language,
            language_probability=spoken.probability,
            avg_logprob=decoded.avg_logprob,
            no_speech_prob=decoded.no_speech_prob,
            compression_ratio=compression_ratio(text) if text else None,
            temperature=item.options.temperature,
            cut=decoded.cut,
        )


def _view(array: Features) -> StorageView:
    from ctranslate2 import StorageView

    return StorageView.from_array(np.ascontiguousarray(array))
