#!/usr/bin/env python3
"""Makes another engine's form of Whisper weights that are here as CTranslate2's, found in this clone.

scripts/convert-weights.py base --to pt                  of a named model, kept in ENGINE__MODEL_DIR
scripts/convert-weights.py base --to ggml                with the SHA-256 of what it was made of
scripts/convert-weights.py FOLDER --to ggml --output FILE
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if (PYTHON := ROOT / ".venv/bin/python").exists() and Path(sys.prefix) != ROOT / ".venv":
    os.execv(PYTHON, [str(PYTHON), *sys.argv])  # noqa: S606 – our own program

sys.path.insert(0, str(ROOT))

from api.__main__ import configured  # noqa: E402 – found once the clone is on the path
from pipeline.errors import ConfigError  # noqa: E402 – as above
from stages.engines import weights  # noqa: E402 – as above
from stages.engines.backend import INSTALL  # noqa: E402 – as above
from stages.engines.formats import read_ctranslate2, write_ggml  # noqa: E402 – as above


def main() -> None:
    parser = _parser()
    asked = parser.parse_args()
    if Path(asked.model).is_dir() and not asked.output:
        parser.error("a folder has no name to be found by: say where to with --output FILE")
    write = {"pt": to_pt, "ggml": to_ggml}[asked.to]
    settings = configured().engine
    if asked.output:
        in_one_step(write, weights.source(asked.model, settings), asked.output)
    kept = asked.output or weights.convert(asked.model, settings, asked.to, write)
    sys.stdout.write(f"{kept}\n")


def in_one_step(write: Callable[[Path, Path], None], folder: Path, file: Path) -> None:
    """Whoever looks sees what was there before, or all of what is written."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.touch()  # torch has errors of its own for a place where nothing can be written
        write(folder, partial)
        partial.replace(file)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def to_pt(folder: Path, file: Path) -> None:
    """Write what openai-whisper saves and loads, and the heads to align words by, which it keeps in its own code."""
    try:
        import torch
    except ImportError as error:
        raise ConfigError(f"A .pt file is written by PyTorch; {INSTALL['openai_whisper']}.") from error
    whisper = read_ctranslate2(folder)
    tensors = {name: torch.from_numpy(tensor.copy()) for name, tensor in whisper.tensors.items()}
    torch.save(
        {
            "dims": {name: getattr(whisper.dimensions, name) for name in whisper.dimensions.__slots__},
            "model_state_dict": tensors,
            "alignment_heads": whisper.alignment_heads,
        },
        file,
    )


def to_ggml(folder: Path, file: Path) -> None:
    from faster_whisper.feature_extractor import FeatureExtractor

    whisper = read_ctranslate2(folder)
    # Within 4e-9 of OpenAI's own filters, which whisper.cpp's files carry; those come with torch.
    write_ggml(whisper, FeatureExtractor(feature_size=whisper.dimensions.n_mels).mel_filters, file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "convert-weights", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a name from `antiphon weights list`, or a folder converted for CTranslate2")
    parser.add_argument("--to", choices=["pt", "ggml"], required=True)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write here; needed for a folder")
    return parser


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"convert-weights: {error}")
