"""A model in a ggml file of whisper.cpp, by what the head of the file says."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.errors import ConfigError
from stages.engines.formats import Dimensions

MAGIC: Final = b"lmgg"  # 0x67676d6c, least byte first
HEADER: Final = struct.Struct("<4s11i")
FREQUENCIES: Final = 201  # of each mel filter; the filters stand between the head and the weights
TYPES: Final = {0: "float32", 1: "float16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1"}  # ggml_ftype

# Heads that follow the audio, as whisper.cpp names its tables of them, by the decoder's layers and width and mel bands.
# The sizes of large-v1 are those of large-v2.
HEADS: Final = {
    (4, 384, 80): "TINY",
    (6, 512, 80): "BASE",
    (12, 768, 80): "SMALL",
    (24, 1024, 80): "MEDIUM",
    (32, 1280, 80): "LARGE_V2",
    (32, 1280, 128): "LARGE_V3",
    (4, 1280, 128): "LARGE_V3_TURBO",
}
ENGLISH_VOCABULARY: Final = 51_864


@dataclass(frozen=True, slots=True)
class Model:
    """A ggml file, by what its head says. Raises ``ConfigError`` where it is none.

    ``identity`` is of the file itself, and not of its name.
    """

    file: Path
    identity: tuple[int, int]
    dimensions: Dimensions
    compute_type: str

    @classmethod
    def at(cls, file: Path) -> Model:
        with file.open("rb") as content:
            head, identity = content.read(HEADER.size), _identity(os.fstat(content.fileno()))
        if len(head) < HEADER.size or not head.startswith(MAGIC):
            raise ConfigError(f"{file} is not a ggml file of whisper.cpp; its first bytes are not those of one.")
        _, *sizes, kind = HEADER.unpack(head)
        return cls(file, identity, Dimensions(*sizes), TYPES.get(kind % 1000, f"type {kind}"))

    @property
    def multilingual(self) -> bool:
        return self.dimensions.n_vocab > ENGLISH_VOCABULARY

    @property
    def replaced(self) -> bool:
        return self.identity != _identity(self.file.stat())

    @property
    def before_weights(self) -> int:
        """Bytes of the head and the mel filters, in whose last digits machines differ."""
        return HEADER.size + 8 + 4 * self.dimensions.n_mels * FREQUENCIES

    def heads(self) -> str | None:
        """The name of whisper.cpp's table of heads for this model, if it has one."""
        of = self.dimensions
        name = HEADS.get((of.n_text_layer, of.n_text_state, of.n_mels))
        return f"{name}_EN" if name and not self.multilingual else name


def _identity(file: os.stat_result) -> tuple[int, int]:
    return file.st_ino, file.st_mtime_ns
