"""The device PyTorch computes on: which one, in what precision, with what model; stopped, filled up, or gone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import ConfigError, EngineLost
from stages.engines import BatchTooBig, CancelFlag

if TYPE_CHECKING:
    from whisper import Whisper

Head = tuple[int, int]
"""A layer of the decoder, and one of its attention heads."""

MISSING: Final = {
    "cuda": "ENGINE__DEVICE=cuda, but PyTorch finds no CUDA or ROCm card; install its build for the card, "
    "or set it to cpu or auto.",
    "mps": "ENGINE__DEVICE=mps, but PyTorch finds no Metal, which a Mac with Apple silicon has; set it to cpu or auto.",
}

# Half precision is what a card is made for; a CPU computes in it slower, and on Metal nobody here has tried it.
PRECISIONS: Final = {"cuda": ("float16", "float32"), "mps": ("float32",), "cpu": ("float32",)}


class Cancelled(Exception):
    """Nobody waits for what is computed."""


@dataclass(frozen=True, slots=True)
class Model:
    """``heads``: those whose attention tells when a token was said."""

    whisper: Whisper
    heads: tuple[Head, ...]

    def for_a_lane(self) -> Model:
        """Modules of its own, and so hooks of its own, over the same weights."""
        shared = {id(tensor): tensor for tensor in chain(self.whisper.parameters(), self.whisper.buffers())}
        return Model(copy.deepcopy(self.whisper, shared), self.heads)


def choose_device(asked: str, *, cuda: bool, mps: bool) -> str:
    """``cuda``, ``mps`` or ``cpu``. Raises ``ConfigError`` when the one asked for is not there."""
    there = {"cuda": cuda, "mps": mps, "cpu": True}
    if asked == "auto":
        return next(device for device, is_there in there.items() if is_there)
    if not there[asked]:
        raise ConfigError(MISSING[asked])
    return asked


def choose_precision(asked: str, device: str) -> str:
    """Raises ``ConfigError`` when openai_whisper does not compute in the type asked for on this device."""
    usual, *_ = precisions = PRECISIONS[device]
    if asked not in ("auto", *precisions):
        raise ConfigError(
            f"ENGINE__COMPUTE_TYPE={asked} is not for openai_whisper on {device}; use {' or '.join(precisions)}."
        )
    return usual if asked == "auto" else asked


def load_model(file: Path, device: str, precision: str) -> Model:
    """A checkpoint of openai/whisper. Raises ``ConfigError`` when the file is not one."""
    import torch
    from whisper.model import ModelDimensions, Whisper

    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        whisper = Whisper(ModelDimensions(**checkpoint["dims"]))
        whisper.load_state_dict(checkpoint["model_state_dict"])
        heads = _heads(whisper, checkpoint, file.stem)
    except Exception as error:  # unpickling may raise anything, and so may what is made of it
        raise ConfigError(f"{file} is not a .pt file of openai-whisper, or is damaged.") from error
    whisper.alignment_heads = None  # sparse, for which Metal has no storage
    if precision == "float16":
        halve(whisper)
    try:
        return Model(whisper.to(device).eval(), heads)
    except RuntimeError as error:
        raise ConfigError(
            f"The model in {file} does not go onto {device}, which may have too little memory."
        ) from error


def halve(whisper: Whisper) -> None:
    """Weights in float16, once and not for every product; layer norms stay in float32, in which they are computed."""
    from whisper.model import LayerNorm

    whisper.half()
    for module in whisper.modules():
        if isinstance(module, LayerNorm):
            module.float()


def _heads(whisper: Whisper, checkpoint: Mapping[str, Any], name: str) -> tuple[Head, ...]:
    """Those told by a converted checkpoint, those the library knows for the name, or all of the upper layers'."""
    from whisper import _ALIGNMENT_HEADS

    if told := checkpoint.get("alignment_heads"):
        return tuple((layer, head) for layer, head in told)
    if name in _ALIGNMENT_HEADS:
        whisper.set_alignment_heads(_ALIGNMENT_HEADS[name])
    return tuple((layer, head) for layer, head in whisper.alignment_heads.indices().T.tolist())


def give_back(device: str) -> None:
    """To the card, what PyTorch keeps of it for later."""
    import torch

    if device == "cuda":
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()


@contextmanager
def stoppable(whisper: Whisper, cancel: CancelFlag) -> Iterator[None]:
    """Raise ``Cancelled`` before the next layer, of encoder or decoder, once the flag is set."""

    def look(_layer: object, _inputs: object) -> None:
        if cancel.is_set():
            raise Cancelled

    hooks = [block.register_forward_pre_hook(look) for block in (*whisper.encoder.blocks, *whisper.decoder.blocks)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def watched() -> Iterator[None]:
    """Tell a batch that was too big (``BatchTooBig``) and a lost device (``EngineLost``) from a batch that failed."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error)
        # Only CUDA's has a class of its own; Metal and the CPU say it in words.
        if any(words in reason for words in ("out of memory", "ALLOC_FAILED", "can't allocate memory")):
            raise BatchTooBig(reason) from error
        if reason.startswith(("CUDA", "HIP", "cuBLAS", "cuDNN")):
            raise EngineLost(f"The device failed: {reason}") from error
        raise
