"""Whisper's weights in the files of its libraries: CTranslate2's are read, ggml's are written, both with numpy alone.

What lies between is a `Whisper`: OpenAI's names for the tensors, in OpenAI's order of axes.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from os import SEEK_CUR
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Dimensions:
    """As openai-whisper names them, in the order of ggml's header."""

    n_vocab: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int
    n_mels: int


@dataclass(frozen=True, slots=True, eq=False)
class Whisper:
    """``tensors``: float16 or float32, by OpenAI's names. ``alignment_heads``: layer and head of each.

    ``tokens``: the bytes of each text token, by its number; those behind them are special.
    """

    dimensions: Dimensions
    tensors: Mapping[str, Array]
    alignment_heads: list[list[int]]
    tokens: list[bytes]


# ── CTranslate2, as `ModelSpec._serialize` in ctranslate2/specs/model_spec.py writes it ───────────────────────────────

CTRANSLATE2_VERSION: Final = 6  # CURRENT_BINARY_VERSION there
CTRANSLATE2_TYPES: Final = ("float32", "int8", "int16", "int32", "float16", "bfloat16")  # by number, as there


def read_ctranslate2(folder: Path) -> Whisper:
    """Raises ``ConfigError`` when a folder holds no whole Whisper, or quantised weights."""
    try:
        return _whisper(folder)
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}.") from error
    except (LookupError, ValueError, struct.error) as error:  # of a file that ends early, or says something else
        raise ConfigError(f"{folder} does not hold a Whisper converted for CTranslate2, or is damaged.") from error


def _whisper(folder: Path) -> Whisper:
    variables = _variables(folder / "model.bin")
    tensors = dict(_renamed(variables))
    n_vocab, n_text_state = tensors["decoder.token_embedding.weight"].shape
    n_audio_ctx, n_audio_state = tensors["encoder.positional_embedding"].shape
    dimensions = Dimensions(
        n_vocab=n_vocab,
        n_audio_ctx=n_audio_ctx,
        n_audio_state=n_audio_state,
        n_audio_head=int(variables["encoder/num_heads"]),
        n_audio_layer=_layers(variables, "encoder"),
        n_text_ctx=len(tensors["decoder.positional_embedding"]),
        n_text_state=n_text_state,
        n_text_head=int(variables["decoder/num_heads"]),
        n_text_layer=_layers(variables, "decoder"),
        n_mels=tensors["encoder.conv1.weight"].shape[1],
    )
    heads = json.loads((folder / "config.json").read_bytes())["alignment_heads"]
    return Whisper(dimensions, tensors, heads, _tokens(folder / "tokenizer.json"))


def layers(file: Path) -> tuple[int, int]:
    """How many the encoder of a ``model.bin`` has, and the decoder. Its weights, of any type, are passed over."""
    with file.open("rb") as stream:
        _take(stream, "I")  # the format's version; whatever CTranslate2 loads has its variables in this layout
        _string(stream)
        _take(stream, "I")
        names = [_passed_over(stream) for _ in range(*_take(stream, "I"))]
    return _layers(names, "encoder"), _layers(names, "decoder")


def _variables(file: Path) -> dict[str, Array]:
    with file.open("rb") as stream:
        if _take(stream, "I") != (CTRANSLATE2_VERSION,) or _string(stream) != "WhisperSpec":
            raise ConfigError(f"{file} is not a Whisper of CTranslate2's present format; convert it again.")
        _take(stream, "I")  # the specification's revision
        variables = dict(_variable(stream, file) for _ in range(*_take(stream, "I")))
        for _ in range(*_take(stream, "I")):
            alias = _string(stream)
            variables[alias] = variables[_string(stream)]
    return variables


def _variable(stream: BinaryIO, file: Path) -> tuple[str, Array]:
    name, shape, dtype, size = _described(stream)
    if shape and dtype not in ("float16", "float32"):
        raise ConfigError(f"{file} holds {dtype} weights, which cannot be given back what they lost; take float16.")
    return name, np.frombuffer(stream.read(size), dtype).reshape(shape)


def _passed_over(stream: BinaryIO) -> str:
    name, _, _, size = _described(stream)
    stream.seek(size, SEEK_CUR)
    return name


def _described(stream: BinaryIO) -> tuple[str, tuple[int, ...], str, int]:
    """A variable's name, shape, type and bytes."""
    name, (rank,) = _string(stream), _take(stream, "B")
    shape, (kind, size) = _take(stream, f"{rank}I"), _take(stream, "BI")
    return name, shape, CTRANSLATE2_TYPES[kind], size


def _take(stream: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(f"<{layout}", stream.read(struct.calcsize(f"<{layout}")))


def _string(stream: BinaryIO) -> str:
    (size,) = _take(stream, "H")
    return stream.read(size)[:-1].decode()  # less its final zero


def _layers(names: Iterable[str], half: str) -> int:
    return len({name.split("/")[1] for name in names if re.match(rf"{half}/layer_\d", name)})


# ── OpenAI's names: `WhisperLoader` in ctranslate2/converters/transformers.py, read backwards ─────────────────────────

Named = Iterator[tuple[str, Array]]


def _renamed(variables: Mapping[str, Array]) -> Named:
    for conv in ("conv1", "conv2"):
        yield from _linear(variables, f"encoder/{conv}", f"encoder.{conv}")
    yield "decoder.token_embedding.weight", variables["decoder/embeddings/weight"]
    for half, norm in (("encoder", "ln_post"), ("decoder", "ln")):
        yield f"{half}.positional_embedding", variables[f"{half}/position_encodings/encodings"]
        for layer in range(_layers(variables, half)):
            yield from _block(variables, f"{half}/layer_{layer}", f"{half}.blocks.{layer}")
        yield from _norm(variables, f"{half}/layer_norm", f"{half}.{norm}")


def _block(variables: Mapping[str, Array], theirs: str, ours: str) -> Named:
    attn, cross = f"{ours}.attn", f"{ours}.cross_attn"
    yield from _linear(variables, f"{theirs}/self_attention/linear_0", f"{attn}.query", f"{attn}.key", f"{attn}.value")
    yield from _linear(variables, f"{theirs}/self_attention/linear_1", f"{attn}.out")
    yield from _norm(variables, f"{theirs}/self_attention/layer_norm", f"{ours}.attn_ln")
    if ours.startswith("decoder"):
        yield from _linear(variables, f"{theirs}/attention/linear_0", f"{cross}.query")
        yield from _linear(variables, f"{theirs}/attention/linear_1", f"{cross}.key", f"{cross}.value")
        yield from _linear(variables, f"{theirs}/attention/linear_2", f"{cross}.out")
        yield from _norm(variables, f"{theirs}/attention/layer_norm", f"{ours}.cross_attn_ln")
    yield from _linear(variables, f"{theirs}/ffn/linear_0", f"{ours}.mlp.0")
    yield from _linear(variables, f"{theirs}/ffn/linear_1", f"{ours}.mlp.2")
    yield from _norm(variables, f"{theirs}/ffn/layer_norm", f"{ours}.mlp_ln")


def _linear(variables: Mapping[str, Array], theirs: str, *ours: str) -> Named:
    """One layer, or several that CTranslate2 has stacked. Whisper's keys have no bias; there it is zeros."""
    for kind in ("weight", "bias"):
        for target, part in zip(ours, np.split(variables[f"{theirs}/{kind}"], len(ours)), strict=True):
            if not f"{target}.{kind}".endswith(".key.bias"):
                yield f"{target}.{kind}", part


def _norm(variables: Mapping[str, Array], theirs: str, ours: str) -> Named:
    yield f"{ours}.weight", variables[f"{theirs}/gamma"]
    yield f"{ours}.bias", variables[f"{theirs}/beta"]


def _tokens(file: Path) -> list[bytes]:
    """The bytes of the text tokens, which ``tokenizer.json`` spells in printable characters, a byte each.

    Printable bytes stand for themselves, the others are moved above 255 in their order: `bytes_to_unicode` of GPT-2.
    """
    vocabulary = json.loads(file.read_bytes())["model"]["vocab"]
    themselves = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in themselves]
    spelt = {chr(byte): byte for byte in themselves} | {chr(256 + place): byte for place, byte in enumerate(moved)}
    numbered = sorted(vocabulary, key=vocabulary.__getitem__)
    return [bytes(spelt[character] for character in token) for token in numbered[: vocabulary["<|endoftext|>"]]]


# ── ggml, as models/convert-pt-to-ggml.py of whisper.cpp writes it ────────────────────────────────────────────────────

GGML_MAGIC: Final = 0x67676D6C
GGML_FLOAT32, GGML_FLOAT16 = 0, 1

# whisper.cpp wants these as they are; of the others those with one axis.
_ALWAYS_FLOAT32: Final = {"encoder.positional_embedding", "decoder.positional_embedding"}
_COLUMNS: Final = {"encoder.conv1.bias", "encoder.conv2.bias"}


def write_ggml(whisper: Whisper, filters: NDArray[np.float32], file: Path) -> None:
    """Write weights in float16. ``filters``: the mel filters, shape (mels, 201), which whisper.cpp reads from there."""
    with file.open("wb") as stream:
        stream.write(struct.pack("<12i", GGML_MAGIC, *astuple(whisper.dimensions), GGML_FLOAT16))
        stream.write(struct.pack("<2i", *filters.shape) + filters.astype("<f4").tobytes())
        stream.write(struct.pack("<i", len(whisper.tokens)))
        for token in whisper.tokens:
            stream.write(struct.pack("<i", len(token)) + token)
        for name, tensor in whisper.tensors.items():
            _write_tensor(stream, name, tensor)


def _write_tensor(stream: BinaryIO, name: str, tensor: Array) -> None:
    single = tensor.ndim == 1 or name in _ALWAYS_FLOAT32
    shaped = tensor.reshape(-1, 1) if name in _COLUMNS else tensor
    stream.write(struct.pack("<3i", shaped.ndim, len(name), GGML_FLOAT32 if single else GGML_FLOAT16))
    stream.write(struct.pack(f"<{shaped.ndim}i", *reversed(shaped.shape)) + name.encode())
    stream.write(shaped.astype("<f4" if single else "<f2").tobytes())
