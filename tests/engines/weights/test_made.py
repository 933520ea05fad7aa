"""What is made of whole weights is found as if it had been fetched; the command that keeps both."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from api.__main__ import main
from pipeline.errors import ConfigError
from pipeline.settings import EngineSettings
from stages.engines import weights
from stages.engines.catalogue import MODELS, Form
from tests.engines.publishing import (
    DIGEST,
    FILES,
    Shelf,
    rot,
)


def reverse(folder: Path, file: Path) -> None:
    """A conversion."""
    file.write_bytes((folder / "model.bin").read_bytes()[::-1])


def test_what_was_made_is_found_as_if_it_had_been_fetched(settings: EngineSettings, index: Path) -> None:
    made = weights.convert("pocket", settings, "ggml", reverse)
    assert made.read_bytes() == FILES["model.bin"][::-1]
    assert weights.find("pocket", settings.model_copy(update={"offline": True}), "ggml") == made
    assert weights.verify("pocket", settings, "ggml") == ()


def test_what_was_made_is_made_once_and_survives_being_copied(
    settings: EngineSettings, index: Path, tmp_path: Path
) -> None:
    made = weights.convert("pocket", settings, "ggml", reverse)
    stamp = made.stat().st_mtime_ns
    assert weights.convert("pocket", settings, "ggml", reverse).stat().st_mtime_ns == stamp
    carried = EngineSettings(model_dir=tmp_path / "elsewhere", offline=True)
    shutil.copytree(made.parent, carried.model_dir / "pocket-ggml", copy_function=shutil.copyfile)
    assert weights.find("pocket", carried, "ggml").read_bytes() == made.read_bytes()


def test_damage_to_what_was_made_is_seen(settings: EngineSettings, index: Path) -> None:
    made = weights.convert("pocket", settings, "ggml", reverse)
    made.write_bytes(b"something else")
    assert weights.verify("pocket", settings, "ggml") == ("ggml-pocket.bin",)
    with pytest.raises(ConfigError, match="not whole"):
        weights.find("pocket", settings.model_copy(update={"offline": True}), "ggml")
    assert weights.convert("pocket", settings, "ggml", reverse).read_bytes() == FILES["model.bin"][::-1]


def test_what_was_made_of_other_weights_than_todays_does_not_count(
    settings: EngineSettings, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights.convert("pocket", settings, "ggml", reverse)
    model = MODELS["pocket", "ctranslate2"]
    newer = replace(model, files={**model.files, "model.bin": DIGEST[::-1]})
    monkeypatch.setitem(MODELS, ("pocket", "ctranslate2"), newer)
    with pytest.raises(ConfigError, match="not published as a ggml"):
        weights.find("pocket", settings, "ggml")


def test_nothing_is_made_of_damaged_weights(settings: EngineSettings, index: Path) -> None:
    rot(weights.find("pocket", settings) / "model.bin")
    with pytest.raises(ConfigError, match=r"model\.bin .* cannot be converted.*`antiphon weights pull pocket "):
        weights.convert("pocket", settings, "ggml", reverse)


def test_a_form_that_is_not_published_is_said_to_be_made(settings: EngineSettings) -> None:
    with pytest.raises(ConfigError) as raised:
        weights.find("pocket", settings, "ggml")
    assert "convert-weights.py pocket --to ggml" in str(raised.value)
    assert "weights pull" not in str(raised.value)


# ── the command ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_takes_the_form_that_the_engine_needs(
    settings: EngineSettings, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENGINE__MODEL_DIR", str(settings.model_dir))
    monkeypatch.setenv("ENGINE__BACKEND", "openai_whisper")
    file = settings.model_dir / "pocket-pt/pocket.pt"
    assert main(["weights", "verify", "pocket"]) == 1
    assert "pocket.pt is missing" in capsys.readouterr().err
    assert main(["weights", "pull", "pocket"]) == 0
    assert capsys.readouterr().out == f"pocket: {file}\n"
    assert main(["weights", "list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("pocket ")]
    assert [(row[1], row[-1]) for row in rows] == [("ctranslate2", "here"), ("pt", str(file)), ("ggml", "here")]
    assert main(["weights", "verify", "pocket", "--form", "ggml"]) == 1


@pytest.mark.parametrize("form", ["pt", "ggml"])
def test_the_command_that_it_says_to_run_repairs_what_rotted(
    settings: EngineSettings,
    index: Path,
    shelf: Shelf,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: Form,
) -> None:
    monkeypatch.setenv("ENGINE__MODEL_DIR", str(settings.model_dir))
    if form == "ggml":
        rot(weights.convert("pocket", settings, form, reverse))
    else:
        rot(weights.pull("pocket", settings, form))
    assert main(["weights", "verify", "pocket", "--form", form]) == 1
    *_, told = capsys.readouterr().err.splitlines()
    if form == "ggml":
        assert "`scripts/convert-weights.py pocket --to ggml`" in told
        weights.convert("pocket", settings, form, reverse)
    else:
        _, command, _ = told.split("`")
        assert main(command.split()[1:]) == 0
    assert main(["weights", "verify", "pocket", "--form", form]) == 0


@pytest.mark.parametrize("action", ["pull", "verify"])
def test_a_model_without_a_name_can_neither_be_fetched_nor_verified(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENGINE__MODEL", str(tmp_path / "own.pt"))
    assert main(["weights", action]) == 1
    assert "only those with a name are fetched and verified. Name one: tiny," in capsys.readouterr().err
