"""Whisper through PyTorch: openai-whisper's model, features, tokens and rules, and a batched decoding of our own.

On a CPU every lane is one thread with hooks of its own over shared weights, and every window is encoded by itself.
Text is decoded without time stamp tokens; the words get their times from the attention afterwards, window by window.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, EngineLost
from pipeline.languages import LANGUAGES
from pipeline.settings import EngineSettings, cores
from pipeline.transcript import EngineInfo
from stages.engines import CancelFlag, Capabilities, Draft, DraftWord, Options, Window, WindowError, weights
from stages.engines.allocator import give_back_freed_memory
from stages.engines.checks import compression_ratio, is_silence
from stages.engines.device import nice_threads
from stages.engines.frames import FRAMES, HOP, Features, is_silent, log_mel
from stages.engines.torch_alignment import compile_ahead, find_words
from stages.engines.torch_decoder import Decoded, Decoder, Rules, decode, detect, drawn, likeliest
from stages.engines.torch_device import (
    Cancelled,
    Model,
    choose_device,
    choose_precision,
    give_back,
    load_model,
    stoppable,
    watched,
)
from stages.engines.windows import NOBODY, Spoken, flaw, nothing, told, translates
from stages.engines.words import timed

if TYPE_CHECKING:
    from torch import Tensor
    from whisper import Whisper
    from whisper.tokenizer import Tokenizer

# Base on one core: a window's encoding, and a second of speech decoded. No other model was measured.
ENCODE_SECONDS = 1.1
DECODE_SECONDS = 0.08


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A window ready for the encoder. ``features``: log-mel, float32, shape (mels, 3000), silence behind ``frames``.

    ``prompt`` are the tokens before the start of the transcript. ``seed`` is the window's own. ``flaw`` says why this
    window cannot be done.
    """

    options: Options
    seconds: float
    frames: int
    features: Features
    prompt: tuple[int, ...]
    seed: int
    flaw: str | None

    @property
    def silent(self) -> bool:
        return is_silent(self.features)


def load(settings: EngineSettings) -> OpenaiWhisper:
    # Read when the library is loaded: OpenMP threads that wait would spin on the cores of other lanes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch
    import whisper  # noqa: F401 (what is not installed is said before anything is fetched)

    device = choose_device(settings.device, cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available())
    precision = choose_precision(settings.compute_type, device)
    file = weights.find(settings.model, settings, "pt", progress=True)
    compile_ahead()
    if device == "cpu":
        torch.set_num_threads(1)  # a lane is a thread
    lanes = (settings.threads or cores()) if device == "cpu" else 1
    max_batch = settings.max_batch or (8 if device == "cpu" else 16)
    info = EngineInfo(
        backend="openai_whisper",
        model=weights.shown_name(settings.model),
        device=device,
        compute_type=precision,
        version=version("openai-whisper"),
    )
    return OpenaiWhisper(file, info, lanes=lanes, max_batch=max_batch)


class OpenaiWhisper:
    """A temperature above 0 draws samples, by a generator that the window's samples seed, in a run of its own."""

    def __init__(self, file: Path, info: EngineInfo, *, lanes: int, max_batch: int) -> None:
        model = load_model(file, info.device, info.compute_type)
        dims = model.whisper.dims
        self.info = info
        self._file = file
        self._lanes: SimpleQueue[Model] = SimpleQueue()
        self._threads = nice_threads(lanes)
        self._together = max_batch if info.device != "cpu" else 1
        self._multilingual: bool = model.whisper.is_multilingual
        self._mels: int = dims.n_mels
        self._known: int = model.whisper.num_languages
        self._positions: int = dims.n_text_ctx
        self._rules = Rules.of(model.whisper, self._tokenizer("en", "transcribe"))
        self.capabilities = Capabilities(
            lanes=lanes,
            max_batch=max_batch,
            languages=self._languages(),
            words=True,
            translate=translates(
                multilingual=self._multilingual,
                encoder_layers=dims.n_audio_layer,
                decoder_layers=dims.n_text_layer,
            ),
            prompt=True,
            cancellable=True,
            bytes_per_item=4 * (self._mels * FRAMES + dims.n_audio_ctx * dims.n_audio_state),
        )
        self._lay(model)

    def prepare(self, window: Window) -> Prepared:
        samples, options, known = window.samples, window.options, self.capabilities.languages
        why = flaw(window, self.info.model, known, multilingual=self._multilingual)
        return Prepared(
            options=options,
            seconds=window.seconds,
            frames=max(2, len(samples) // HOP),
            features=log_mel(self._mel, samples[:0] if why else samples, FRAMES),
            prompt=self._prompt(options),
            seed=crc32(samples.tobytes()),
            flaw=why,
        )

    def batch_key(self, item: Prepared) -> Hashable:
        # Languages and tasks may differ within a batch; where the transcript starts and how it is chosen may not.
        how = item.options.temperature
        return len(item.prompt), 1 if how else item.options.beam, how, item.seed if how else None

    def cost(self, item: Prepared) -> float:
        return ENCODE_SECONDS + DECODE_SECONDS * item.seconds

    def run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        return self._threads.submit(self._run, batch, cancel).result()

    def _run(self, batch: Sequence[Prepared], cancel: CancelFlag) -> list[Draft | WindowError]:
        results = [
            WindowError(item.flaw) if item.flaw else nothing(item.options, multilingual=self._multilingual)
            for item in batch
        ]
        audible = [place for place, item in enumerate(batch) if not item.flaw and not item.silent]
        audible.sort(key=lambda place: batch[place].seconds, reverse=True)  # short ones leave from the end
        if audible:
            heard = self._hear([batch[place] for place in audible], cancel)
            for place, draft in zip(audible, heard, strict=True):
                results[place] = draft
        return results

    def unload(self) -> None:
        while not self._lanes.empty():
            self._lanes.get()
        give_back(self.info.device)
        give_back_freed_memory()

    def reload(self) -> None:
        try:
            self._lay(load_model(self._file, self.info.device, self.info.compute_type))
        except ConfigError as error:
            raise EngineLost(f"The model cannot be had any more: {error}") from error

    def close(self) -> None:
        self.unload()
        self._threads.shutdown()

    def _lay(self, model: Model) -> None:
        """Take a model for every lane, over the same weights."""
        for _ in range(self.capabilities.lanes):
            self._lanes.put(model.for_a_lane())

    def _hear(self, items: Sequence[Prepared], cancel: CancelFlag) -> Sequence[Draft | WindowError]:
        import torch

        model = self._lanes.get()
        try:
            with watched(), torch.inference_mode(), stoppable(model.whisper, cancel):
                encodings = self._encode(model.whisper, items)
                with closing(Decoder(model.whisper, encodings)) as decoder:
                    return self._read(decoder, model, items)
        except Cancelled:
            return [NOBODY] * len(items)
        finally:
            self._lanes.put(model)

    def _read(self, decoder: Decoder, model: Model, items: Sequence[Prepared]) -> list[Draft | WindowError]:
        spoken = self._detect(decoder, items)
        decoder.turn_to(slice(0, len(items)))
        decoded = self._decode(decoder, items, spoken)
        results: list[Draft | WindowError] = []
        for place, (item, of, text) in enumerate(zip(items, spoken, decoded, strict=True)):
            if not np.isfinite(text.avg_logprob):
                results.append(WindowError("The model gave numbers that are not finite."))
                continue
            # One by one: what a word's borders are never depends on the shape of a product.
            decoder.turn_to(slice(place, place + 1))
            results.append(self._draft(item, of, text, self._words(decoder, model, item, of, text)))
        return results

    def _encode(self, whisper: Whisper, items: Sequence[Prepared]) -> Tensor:
        """Shape (n, 1500, width). Alone on a CPU, where company only costs memory: 1.07 s alone, 1.17 in eight."""
        import torch

        weight = whisper.encoder.conv1.weight
        parts = []
        for start in range(0, len(items), self._together):
            features = np.stack([item.features for item in items[start : start + self._together]])
            parts.append(whisper.encoder(torch.from_numpy(features).to(weight.device, weight.dtype)))
        return torch.cat(parts)

    def _detect(self, decoder: Decoder, items: Sequence[Prepared]) -> list[Spoken]:
        known = [told(item.options, multilingual=self._multilingual) for item in items]
        if None not in known:
            return [spoken for spoken in known if spoken]
        found = detect(decoder, self._tokenizer("en", "transcribe"), len(items))
        return [spoken or Spoken(*heard) for spoken, heard in zip(known, found, strict=True)]

    def _decode(self, decoder: Decoder, items: Sequence[Prepared], spoken: Sequence[Spoken]) -> list[Decoded]:
        beam, temperature = items[0].options.beam, items[0].options.temperature
        choice = drawn(temperature, [item.seed for item in items]) if temperature else likeliest(beam)
        prompts = [[*item.prompt, *self._start(item, of)] for item, of in zip(items, spoken, strict=True)]
        return decode(decoder, prompts, len(items[0].prompt), choice, 1 if temperature else beam, self._rules)

    def _words(
        self, decoder: Decoder, model: Model, item: Prepared, spoken: Spoken, decoded: Decoded
    ) -> tuple[DraftWord, ...]:
        if not decoded.tokens:
            return ()
        written = "en" if item.options.task == "translate" else spoken.language  # by which words are told apart
        tokenizer = self._tokenizer(written, item.options.task)
        start, frames = self._start(item, spoken), item.frames // 2
        aligned = find_words(decoder, model.heads, tokenizer, start, decoded.tokens, frames)
        return timed(aligned, item.seconds)

    def _draft(self, item: Prepared, spoken: Spoken, decoded: Decoded, words: tuple[DraftWord, ...]) -> Draft:
        silent = is_silence(decoded.no_speech_prob, decoded.avg_logprob)
        text = "" if silent else self._tokenizer("en", "transcribe").decode(decoded.tokens).strip()
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

    def _mel(self, samples: NDArray[np.float32], padding: int) -> Features:
        from whisper.audio import log_mel_spectrogram

        mel: Features = log_mel_spectrogram(samples, self._mels, padding).numpy()
        return mel

    def _prompt(self, options: Options) -> tuple[int, ...]:
        """The prompt's tokens and those of the text before, behind it: at most half of the decoder's positions.

        Of what is too long the end is kept. Control tokens are read as ordinary text.
        """
        tokenizer, room = self._tokenizer("en", "transcribe"), self._positions // 2 - 1
        prompt, before = (
            tokenizer.encode(" " + text.strip(), disallowed_special=()) if text else []
            for text in (options.prompt, options.before)
        )
        prompt = prompt[-room:]
        tokens = [*prompt, *before[max(0, len(before) + len(prompt) - room) :]]
        return (tokenizer.sot_prev, *tokens) if tokens else ()

    def _start(self, item: Prepared, spoken: Spoken) -> tuple[int, ...]:
        return tuple(self._tokenizer(spoken.language, item.options.task).sot_sequence_including_notimestamps)

    def _languages(self) -> frozenset[str]:
        codes = self._tokenizer("en", "transcribe").all_language_codes
        return LANGUAGES & set(codes) if self._multilingual else frozenset({"en"})

    def _tokenizer(self, language: str, task: Literal["transcribe", "translate"]) -> Tokenizer:
        from whisper.tokenizer import get_tokenizer

        return get_tokenizer(self._multilingual, num_languages=self._known, language=language, task=task)
