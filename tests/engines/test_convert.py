"""What CTranslate2 holds, openai-whisper and whisper.cpp read: the same tensors, the same tokens, the same words."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from base64 import b64decode
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
from ctranslate2.specs import WhisperSpec
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from stages.engines.catalogue import ALIASES, MODELS
from stages.engines.formats import read_ctranslate2
from stages.engines.sources import Address

from .conftest import ROOT, Clip

Array = NDArray[np.float32]

SAID = "ask not what your country can do for you"
MELS, WIDTH, POSITIONS = 4, 6, 5


def words(text: str) -> str:
    return " ".join(re.findall(r"[\w']+", text.lower()))


def small_whisper(folder: Path, quantization: str) -> dict[str, Array]:
    """A Whisper of one layer, as CTranslate2's own code saves it; what was put into it, by CTranslate2's names."""
    random, filled = np.random.default_rng(7), dict[str, Array]()
    spec = WhisperSpec(1, 2, 1, 2)
    last = {"conv1": (MELS, 3), "conv2": (WIDTH, 3)}

    def fill(part: object, name: str, value: object) -> None:
        layer, kind = name.split("/")[-2:]
        if kind not in ("weight", "bias", "encodings", "gamma", "beta"):
            return
        many = {"linear_0": 3, "embeddings": 2, "projection": 2}
        rows = POSITIONS if kind == "encodings" else WIDTH * many.get(layer, 1)
        if "/attention/" in name or "/ffn/" in name:
            rows = 2 * WIDTH if "attention/linear_1" in name else WIDTH
        shape = (rows, *last.get(layer, (WIDTH,))) if kind in ("weight", "encodings") else (rows,)
        filled[name] = random.standard_normal(shape).astype(np.float32)
        setattr(part, kind, filled[name])

    spec._visit(fill)
    spec.config.alignment_heads = [(0, 1)]
    spec.register_vocabulary([str(number) for number in range(2 * WIDTH)])
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))
    vocabulary = {"a": 0, "Ġa": 1, "<|endoftext|>": 2}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    return filled


def test_stacked_layers_come_apart_under_openais_names(tmp_path: Path) -> None:
    put = small_whisper(tmp_path, "float32")
    read = read_ctranslate2(tmp_path)
    query, key, value = np.split(put["decoder/layer_0/self_attention/linear_0/weight"], 3)
    assert np.array_equal(read.tensors["decoder.blocks.0.attn.query.weight"], query)
    assert np.array_equal(read.tensors["decoder.blocks.0.attn.value.weight"], value)
    assert np.array_equal(read.tensors["decoder.blocks.0.attn.key.weight"], key)
    assert "decoder.blocks.0.attn.key.bias" not in read.tensors
    assert np.array_equal(read.tensors["encoder.conv1.weight"], put["encoder/conv1/weight"])
    assert (read.dimensions.n_mels, read.dimensions.n_vocab, read.dimensions.n_text_head) == (MELS, 2 * WIDTH, 2)
    assert (read.alignment_heads, read.tokens) == ([[0, 1]], [b"a", b" a"])


@pytest.mark.parametrize("quantization", ["int8", "int16", "bfloat16"])
def test_weights_that_have_lost_precision_are_refused_by_their_type(tmp_path: Path, quantization: str) -> None:
    small_whisper(tmp_path, quantization)
    with pytest.raises(ConfigError, match=f"holds {quantization} weights"):
        read_ctranslate2(tmp_path)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    small_whisper(tmp_path, "float16")
    file = tmp_path / "model.bin"
    file.write_bytes(file.read_bytes().replace(b"WhisperSpec", b"AnotherSpec", 1))
    with pytest.raises(ConfigError, match="is not a Whisper"):
        read_ctranslate2(tmp_path)


@pytest.mark.parametrize("file", ["model.bin", "config.json", "tokenizer.json"])
def test_a_folder_that_is_not_whole_is_refused_in_one_sentence(tmp_path: Path, file: str) -> None:
    small_whisper(tmp_path, "float16")
    whole = (tmp_path / file).read_bytes()
    for size in (0, len(whole) // 2):
        (tmp_path / file).write_bytes(whole[:size])
        with pytest.raises(ConfigError, match="does not hold a Whisper converted for CTranslate2, or is damaged"):
            read_ctranslate2(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(ConfigError, match=f"{file} cannot be read: No such file"):
        read_ctranslate2(tmp_path)


def convert(*arguments: str | Path, **settings: str) -> str:
    """What the tool prints, or says that it cannot do."""
    command = [sys.executable, str(ROOT / "scripts/convert-weights.py"), *map(str, arguments)]
    environment = {**os.environ, "ENGINE__OFFLINE": "true", **settings}
    done = run(command, capture_output=True, text=True, env=environment, check=False)
    assert "Traceback" not in done.stderr
    return done.stdout if done.returncode == 0 else done.stderr


def test_the_tool_writes_where_it_is_told_and_says_what_it_cannot_do(tmp_path: Path) -> None:
    small_whisper(tmp_path, "float16")
    here = set(tmp_path.iterdir())
    made = tmp_path / "small.bin"
    assert convert(tmp_path, "--to", "ggml", "--output", made) == f"{made}\n"
    assert made.read_bytes()[:4] == b"lmgg"
    assert "--output" in convert(tmp_path, "--to", "ggml")
    assert "ENGINE__OFFLINE forbids" in convert("large-v2", "--to", "ggml")
    assert "ENGINE__DEVICE: " in convert("base", "--to", "ggml", ENGINE__DEVICE="toaster")
    nowhere = tmp_path / "nowhere" / "small.bin"
    assert f"{nowhere} cannot be written: No such file" in convert(tmp_path, "--to", "pt", "--output", nowhere)
    (tmp_path / "config.json").unlink()
    assert "config.json cannot be read" in convert(tmp_path, "--to", "ggml", "--output", made)
    assert made.read_bytes()[:4] == b"lmgg"
    assert set(tmp_path.iterdir()) == here - {tmp_path / "config.json"} | {made}


@pytest.mark.weights
def test_every_byte_of_a_named_model_is_checked_before_it_is_written_elsewhere(
    tiny_en_weights: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_en_weights, tmp_path / "tiny.en", symlinks=False)
    with (copy / "model.bin").open("r+b") as file:
        stat = os.fstat(file.fileno())
        file.seek(-1, os.SEEK_END)
        file.write(b"X")
    os.utime(copy / "model.bin", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    told = convert("tiny.en", "--to", "ggml", "--output", tmp_path / "made.bin", ENGINE__MODEL_DIR=str(tmp_path))
    assert "model.bin" in told
    assert "cannot be converted" in told
    assert not (tmp_path / "made.bin").exists()


def test_openais_addresses_are_those_of_its_library() -> None:
    library = pytest.importorskip("whisper")
    for name, url in library._MODELS.items():
        model = MODELS.get((ALIASES.get(name, name), "pt"))
        assert model is None or model.sources == (Address(url),)


# ── with real weights ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.weights
@pytest.mark.parametrize(("model", "table"), [("base", "multilingual"), ("tiny.en", "gpt2")])
def test_the_tokens_are_those_of_openais_library(
    model: str, table: str, base_ggml: Path, tiny_en_weights: Path
) -> None:
    library = find_spec("whisper") or pytest.skip("openai-whisper is not installed")
    [place] = library.submodule_search_locations or []
    lines = Path(place, f"assets/{table}.tiktoken").read_text().splitlines()
    folder = tiny_en_weights if model == "tiny.en" else base_ggml.parents[1] / "base"
    assert read_ctranslate2(folder).tokens == [b64decode(line.split()[0]) for line in lines if line]


@pytest.mark.weights
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its tokens' file is left open
def test_openai_whisper_hears_the_words_with_the_heads_that_it_knows(
    base_pt: Path, clip: Callable[[str], Clip]
) -> None:
    import torch
    import whisper

    model = whisper.load_model(str(base_pt), device="cpu")
    heard = model.transcribe(clip("jfk"), language="en", temperature=0.0, fp16=False)
    assert SAID in words(heard["text"])
    model.set_alignment_heads(whisper._ALIGNMENT_HEADS["base"])
    file = torch.load(base_pt, weights_only=True)
    assert model.alignment_heads.indices().T.tolist() == file["alignment_heads"]


@pytest.mark.weights
def test_whisper_cpp_hears_the_words(base_ggml: Path, clip: Callable[[str], Clip]) -> None:
    library = pytest.importorskip("pywhispercpp.model")
    model = library.Model(str(base_ggml), redirect_whispercpp_logs_to=None, n_threads=1, print_progress=False)
    heard = model.transcribe(clip("jfk"), language="en")
    assert SAID in words(" ".join(segment.text for segment in heard))


@pytest.mark.weights
def test_what_was_converted_is_found_by_its_name(base_pt: Path, base_ggml: Path) -> None:
    assert (base_pt.name, base_ggml.name) == ("base.pt", "ggml-base.bin")
