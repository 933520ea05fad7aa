"""What the head of a ggml file says, and which file it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from stages.engines.frames import hears_short_windows
from stages.engines.ggml import HEADER, MAGIC, Model
from stages.engines.whisper_cpp import HEAR_SHORT_WINDOWS


@pytest.mark.parametrize(
    ("encoder", "decoder", "vocabulary", "heads"),
    [(6, 6, 51_865, None), (32, 4, 51_866, "LARGE_V3_TURBO"), (32, 32, 51_866, "LARGE_V3")],
)
def test_the_head_says_what_model_it_is(
    tmp_path: Path, encoder: int, decoder: int, vocabulary: int, heads: str | None
) -> None:
    file = tmp_path / "own.bin"
    file.write_bytes(HEADER.pack(MAGIC, vocabulary, 1500, 1280, 20, encoder, 448, 1280, 20, decoder, 128, 1))
    model = Model.at(file)
    assert (model.heads(), model.compute_type, model.multilingual) == (heads, "float16", True)
    assert (model.dimensions.n_audio_layer, model.dimensions.n_text_layer) == (encoder, decoder)


def test_another_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "ggml-none.bin").write_bytes(b"not a model" * 100)
    with pytest.raises(ConfigError, match="not a ggml file"):
        Model.at(tmp_path / "ggml-none.bin")


def test_a_file_in_the_place_of_a_model_is_not_taken_for_it(tmp_path: Path) -> None:
    for name in ("own.bin", "other.bin"):
        (tmp_path / name).write_bytes(HEADER.pack(MAGIC, *range(11)))
    model = Model.at(tmp_path / "own.bin")
    assert not model.replaced
    (tmp_path / "other.bin").replace(tmp_path / "own.bin")
    assert model.replaced


@pytest.mark.weights
def test_weights_that_hear_short_windows_are_told_by_what_they_are(base_ggml: Path, tmp_path: Path) -> None:
    def hears(file: Path) -> bool:
        return hears_short_windows(file, HEAR_SHORT_WINDOWS, behind=Model.at(file).before_weights)

    (tmp_path / "mine.bin").symlink_to(base_ggml)
    assert hears(tmp_path / "mine.bin")
    tuned = tmp_path / "ggml-base.bin"
    shutil.copy(base_ggml, tuned)
    with tuned.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"more")
    assert not hears(tuned)
