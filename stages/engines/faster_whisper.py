"""Whisper through CTranslate2: faster-whisper's loader, features and tokens, and a batched decoding of our own.

Every window is encoded by itself and only the decoding is batched: on a CPU encoding gains nothing from company, and
what a window gives never depends on what else was in its batch. Text is decoded without time stamp tokens; the words
get their times from the attention afterwards.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.languages import LANGUAGES
from pipeline.settings import EngineSettings, cores
from pipeline.transcript import EngineInfo
from stages.engines import CancelFlag, Capabilities, Draft, DraftWord, Options, Window, WindowError, weights
from stages.engines.allocator import give_back_freed_memory, keep_freed_memory
from stages.engines.checks import compression_ratio, is_silence
from stages.engines.device import choose_device, choose_precision, watched, with_nice_threads
from stages.engines.words import APPENDED, PREPENDED, Aligned, timed

if TYPE_CHECKING:
    from ctranslate2 import StorageView
    from ctranslate2.models import WhisperGenerationResult
    from faster_whisper import WhisperModel
    from faster_whisper.tokenizer import Tokenizer

Features = NDArray[np.float32]
Task = Literal["transcribe", "translate"]

FRAMES = 3000  # of 10 ms: the 30 s that Whisper's encoder takes
HOP = 160  # samples a frame
TAIL = 800  # samples of silence behind the speech: enough for frames that hear nothing else
MAX_TOKENS = 448  # positions of Whisper's decoder, prompt included

# Base in int8 on one core: a window's encoding, and a second of speech decoded. For other models the ratio holds.
ENCODE_SECONDS = 0.65
DECODE_SECONDS = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A window ready for the encoder. ``features``: log-mel, float32, shape (mels, 3000), silence behind ``frames``.

    ``prompt`` are the tokens before the start of the transcript. ``flaw`` says why this window cannot be done.
    """

    options: Options
    seconds: float
    frames: int
    features: Features
    prompt: tuple[int, ...]
    flaw: str | None

    @property
    def silent(self) -> bool:
        """Digital silence, which Whisper would fill with words of its own."""
        return bool(self.features.min() == self.features.max())


@dataclass(frozen=True, slots=True)
class Decoded:
    tokens: list[int]
    avg_logprob: float
    no_speech_prob: float


@dataclass(frozen=True, slots=True)
class Spoken:
    """``probability`` is None when the language was told and not detected."""

    language: str
    probability: float | None


def load(settings: EngineSettings) -> FasterWhisper:
    # Read when the library is loaded: OpenMP threads that wait would spin on the cores of other lanes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import ctranslate2
    from faster_whisper import WhisperModel

    device = choose_device(settings.device, cards=ctranslate2.get_cuda_device_count())
    compute_type = choose_precision(settings.compute_type, device, ctranslate2.get_supported_compute_types(device))
    if device == "cpu":
        keep_freed_memory()
    folder = weights.find(settings.model, settings, progress=True)
    lanes = 1 if device == "cuda" else settings.threads or cores()
    make = partial(WhisperModel, str(folder), device, compute_type=compute_type, cpu_threads=1, num_workers=lanes)
    try:
        whisper = with_nice_threads(make)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"The model in {folder} cannot be loaded on {device}: {error}") from error
    max_batch = settings.max_batch or (16 if device == "cuda" else 8)
    return FasterWhisper(whisper, model=settings.model, compute_type=compute_type, lanes=lanes, max_batch=max_batch)


class FasterWhisper:
    """Decodes by beam search only: a temperature is not honoured, since samples drawn depend on the batch."""

    def __init__(self, whisper: WhisperModel, *, model: str, compute_type: str, lanes: int, max_batch: int) -> None:
        from faster_whisper.transcribe import get_suppressed_tokens

        self._whisper = whisper
        self._model = whisper.model
        self._multilingual: bool = whisper.model.is_multilingual
        self._mels: int = whisper.model.n_mels
        self._together = max_batch if whisper.model.device == "cuda" else 1
        self._suppressed: tuple[int, ...] = get_suppressed_tokens(self._tokenizer("en", "transcribe"), [-1])
        width = self._encode_batch([np.zeros((self._mels, 4), np.float32)]).shape[-1]
        self.info = EngineInfo(
            backend="faster_whisper",
            model=model,
            device=whisper.model.device,
            compute_type=compute_type,
            version=version("faster-whisper"),
        )
        self.capabilities = Capabilities(
            lanes=lanes,
            max_batch=max_batch,
            languages=self._languages(),
            words=True,
            translate=self._multilingual,
            prompt=True,
            cancellable=False,
            bytes_per_item=4 * (self._mels * FRAMES + width * FRAMES // 2),
        )

    def prepare(self, window: Window) -> Prepared:
        samples, options, flaw = window.samples, window.options, self._flaw(window)
        return Prepared(
            options=options,
            seconds=window.seconds,
            frames=max(2, len(samples) // HOP),
            features=self._features(samples[:0] if flaw else samples),
            prompt=self._prompt(options.prompt) if options.prompt else (),
            flaw=flaw,
        )

    def batch_key(self, item: Prepared) -> Hashable:
        # Languages and tasks may differ in a CTranslate2 batch; where the transcript starts and how it ends may not.
        return len(item.prompt), item.options.beam

    def cost(self, item: Prepared) -> float:
        return ENCODE_SECONDS + DECODE_SECONDS * item.seconds

    def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        results = [WindowError(item.flaw) if item.flaw else _nothing(item) for item in batch]
        audible = [place for place, item in enumerate(batch) if not item.flaw and not item.silent]
        if audible:
            heard = self._hear([batch[place] for place in audible], cancel)
            for place, draft in zip(audible, heard, strict=True):
                results[place] = draft
        return results

    def unload(self) -> None:
        self._model.unload_model()
        give_back_freed_memory()

    def reload(self) -> None:
        self._model.load_model()

    def close(self) -> None:
        self.unload()

    def _hear(self, items: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        with watched():
            encodings = self._encode(items, cancel)
            if encodings is None:
                return [WindowError("Nobody waits for this window any more.")] * len(items)
            spoken = self._detect(items, encodings)
            decoded = self._decode(items, encodings, spoken)
            words = self._align(items, encodings, spoken, decoded)
        return [self._draft(*parts) for parts in zip(spoken, decoded, words, strict=True)]

    def _encode(self, items: Sequence[Prepared], cancel: CancelFlag) -> Features | None:
        """Shape (n, 1500, width), or None when cancelled. Alone on a CPU, where company only costs memory."""
        parts = []
        for start in range(0, len(items), self._together):
            if cancel.is_set():
                return None
            parts.append(self._encode_batch([item.features for item in items[start : start + self._together]]))
        return np.concatenate(parts)

    def _encode_batch(self, features: Sequence[Features]) -> Features:
        from ctranslate2 import DataType

        encoding = self._model.encode(_view(np.stack(features)), to_cpu=True)
        return np.array(encoding.to(DataType.float32))

    def _detect(self, items: Sequence[Prepared], encodings: Features) -> list[Spoken]:
        if not self._multilingual:
            return [Spoken("en", None)] * len(items)
        spoken = [Spoken(item.options.language or "", None) for item in items]
        untold = [place for place, item in enumerate(items) if item.options.language is None]
        if untold:
            for place, ranking in zip(untold, self._model.detect_language(_view(encodings[untold])), strict=True):
                token, probability = ranking[0]
                spoken[place] = Spoken(token.removeprefix("<|").removesuffix("|>"), float(probability))
        return spoken

    def _decode(self, items: Sequence[Prepared], encodings: Features, spoken: Sequence[Spoken]) -> list[Decoded]:
        prompts = []
        for item, of in zip(items, spoken, strict=True):
            tokenizer = self._tokenizer(of.language, item.options.task)
            prompts.append([*item.prompt, *tokenizer.sot_sequence, tokenizer.no_timestamps])
        results = self._model.generate(
            _view(encodings),
            prompts,
            beam_size=items[0].options.beam,
            # CTranslate2 ends at the lesser of half of this, Whisper's bound on a loop, and of this less the prompt.
            max_length=MAX_TOKENS,
            suppress_blank=True,
            suppress_tokens=self._suppressed,
            return_scores=True,
            return_no_speech_prob=True,
        )
        return [self._decoded(result) for result in results]

    def _decoded(self, result: WhisperGenerationResult) -> Decoded:
        tokens = result.sequences_ids[0]
        # the score is a mean over the text; Whisper's avg_logprob counts the end of text as a token too
        avg_logprob = result.scores[0] * len(tokens) / (len(tokens) + 1)
        end = self._whisper.hf_tokenizer.token_to_id("<|endoftext|>")
        return Decoded([token for token in tokens if token < end], float(avg_logprob), float(result.no_speech_prob))

    def _align(
        self, items: Sequence[Prepared], encodings: Features, spoken: Sequence[Spoken], decoded: Sequence[Decoded]
    ) -> list[tuple[DraftWord, ...]]:
        """Words of each item. One call a language and task: the library takes one start sequence for a whole batch."""
        from faster_whisper.transcribe import merge_punctuations

        words: list[tuple[DraftWord, ...]] = [()] * len(items)
        groups: defaultdict[tuple[str, Task], list[int]] = defaultdict(list)
        for place, item in enumerate(items):
            if decoded[place].tokens:
                groups[spoken[place].language, item.options.task].append(place)
        for (language, task), places in groups.items():
            found = self._whisper.find_alignment(
                self._tokenizer(language, task),
                [decoded[place].tokens for place in places],
                _view(encodings[places]),
                [items[place].frames for place in places],
            )
            for place, alignment in zip(places, found, strict=True):
                merge_punctuations(alignment, PREPENDED, APPENDED)  # a mark moves to its word and leaves "" behind
                aligned = (Aligned(w["word"], w["start"], w["end"], w["probability"]) for w in alignment if w["word"])
                words[place] = timed(aligned, items[place].seconds)
        return words

    def _draft(self, spoken: Spoken, decoded: Decoded, words: tuple[DraftWord, ...]) -> Draft:
        silent = is_silence(decoded.no_speech_prob, decoded.avg_logprob)
        text = "" if silent else self._whisper.hf_tokenizer.decode(decoded.tokens).strip()
        return Draft(
            text=text,
            words=words if text else (),
            language=spoken.language,
            language_probability=spoken.probability,
            avg_logprob=decoded.avg_logprob,
            no_speech_prob=decoded.no_speech_prob,
            compression_ratio=compression_ratio(text) if text else None,
        )

    def _flaw(self, window: Window) -> str | None:
        language = window.options.language
        if len(window.samples) > FRAMES * HOP:
            return f"The window is {window.seconds:.1f} s long; Whisper takes 30 s at most."
        if not np.isfinite(window.samples).all():
            return "The window holds samples that are not finite numbers."
        if self._multilingual and language is not None and language not in self.capabilities.languages:
            return f"The model {self.info.model!r} does not know the language {language!r}."
        return None

    def _features(self, samples: NDArray[np.float32]) -> Features:
        """Log-mel of the samples and of silence up to 30 s, of which only the first moments are worked out."""
        mel = self._whisper.feature_extractor(samples, padding=TAIL)[:, :FRAMES]
        return np.pad(mel, ((0, 0), (0, FRAMES - mel.shape[1])), constant_values=mel[0, -1])

    def _prompt(self, text: str) -> tuple[int, ...]:
        """The end of a prompt, in tokens: at most half of the decoder's positions, and no control tokens."""
        tokenizer = self._tokenizer("en", "transcribe")
        tokens = [token for token in tokenizer.encode(" " + text.strip()) if token < tokenizer.eot]
        return tokenizer.sot_prev, *tokens[-(MAX_TOKENS // 2 - 1) :]

    def _languages(self) -> frozenset[str]:
        if not self._multilingual:
            return frozenset({"en"})
        known = self._whisper.hf_tokenizer.token_to_id
        return frozenset(code for code in LANGUAGES if known(f"<|{code}|>") is not None)

    def _tokenizer(self, language: str, task: Task) -> Tokenizer:
        from faster_whisper.tokenizer import Tokenizer

        tokenizer = Tokenizer(self._whisper.hf_tokenizer, self._multilingual, task=task, language=language)
        if task == "translate":
            tokenizer.language_code = "en"  # by which words are told apart
        return tokenizer


def _view(array: Features) -> StorageView:
    from ctranslate2 import StorageView

    return StorageView.from_array(np.ascontiguousarray(array))


def _nothing(item: Prepared) -> Draft:
    """What is heard in silence; a language that had to be detected there has no evidence."""
    language = item.options.language
    return Draft("", (), language or "en", None if language else 0.0, None, None, None)
