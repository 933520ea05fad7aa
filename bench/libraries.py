"""The engines' own libraries, called as their documentation shows: what ours is measured beside."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from bench.clips import Sound
from pipeline.settings import cores

Hear = Callable[[Sound, str | None], str]
"""Text of a recording: float32, mono, 16 000 Hz; language, or None to have it detected."""


def faster_whisper(weights: Path, beam: int, *, workers: int = 0, **options: Any) -> Hear:
    """``workers``: of one thread each; 0: as it comes."""
    from faster_whisper import WhisperModel

    threads = {"cpu_threads": 1, "num_workers": workers} if workers else {}
    model = WhisperModel(str(weights), "cpu", compute_type="int8", **threads)

    def hear(sound: Sound, language: str | None) -> str:
        segments, _ = model.transcribe(sound, language=language, beam_size=beam, **options)
        return "".join(segment.text for segment in segments)

    return hear


def openai_whisper(weights: Path, beam: int, **options: Any) -> Hear:
    import whisper

    model = whisper.load_model(str(weights), device="cpu")

    def hear(sound: Sound, language: str | None) -> str:
        asked = {"beam_size": beam if beam > 1 else None, "language": language, "fp16": False, **options}
        return str(model.transcribe(sound, **asked)["text"])

    return hear


def whisper_cpp(weights: Path, beam: int, *, aligned: bool = False, **options: Any) -> Hear:
    """``aligned``: with times of words from the attention of *base*, as our engine takes them."""
    import _pywhispercpp as native
    from pywhispercpp.model import ContextParams, Model

    strategy = {"beam_search": {"beam_size": beam, "patience": -1.0}} if beam > 1 else {"greedy": {"best_of": 1}}
    alignment = ContextParams(flash_attn=False, dtw_token_timestamps=True, dtw_aheads_preset=native.WHISPER_AHEADS_BASE)
    model = Model(
        str(weights),
        params_sampling_strategy=int(beam > 1),
        redirect_whispercpp_logs_to=os.devnull,
        context_params=alignment if aligned else None,
        n_threads=cores(),
        print_progress=False,
    )

    def hear(sound: Sound, language: str | None) -> str:
        segments = model.transcribe(sound, language=language or "auto", **strategy, **options)
        return " ".join(segment.text for segment in segments)

    return hear


LIBRARIES: Final[Mapping[str, Callable[..., Hear]]] = {
    "faster_whisper": faster_whisper,
    "openai_whisper": openai_whisper,
    "whisper_cpp": whisper_cpp,
}
