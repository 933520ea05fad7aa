"""Whisper base, as it really is, through whisper.cpp."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError, EngineLost
from pipeline.settings import EngineSettings
from stages.engines import Draft, Engine, Options, Window, WindowError, load
from stages.engines.device import NICENESS
from stages.engines.ggml import Model
from stages.engines.whisper_context import Context, Token
from stages.engines.whisper_cpp import choose_device, joined
from stages.engines.words import Aligned
from tests.conformance.engine_suite import Clip, assert_alike, hear, niceness_inside, run
from tests.conformance.whisper_suite import WhisperSuite, reference, word_errors

pytest.importorskip("pywhispercpp")
pytestmark = pytest.mark.weights


@pytest.fixture(scope="session")
def with_base(base_ggml: Path) -> EngineSettings:
    return EngineSettings(backend="whisper_cpp", model="base", device="cpu", threads=2)


@pytest.fixture(scope="session")
def whisper_cpp(with_base: EngineSettings) -> Iterator[Engine]:
    engine = load(with_base)
    yield engine
    engine.close()


SHORT = Options("en", beam=1, short=True)
"""What is heard does not depend on these, and of a window's 6 s on one core they leave 1.5."""

NAME = "A talk with Mr. Kwilter, the painter."


class TestWhisperCpp(WhisperSuite):
    @pytest.fixture
    def engine(self, whisper_cpp: Engine) -> Engine:
        return whisper_cpp

    @pytest.fixture
    def speech(self, clip: Callable[[str], Clip]) -> Sequence[Clip]:
        return [clip("austen_0880"), clip("leopard_en")]

    @pytest.fixture
    def plain(self) -> Options:
        return SHORT

    @pytest.fixture
    def german(self) -> Options:
        return replace(SHORT, language="de")

    @pytest.fixture
    def mixed(self, clip: Callable[[str], Clip]) -> Sequence[Window]:
        silence = np.zeros(48_000, np.float32)
        return [
            Window(clip("leopard_de"), Options("de", "translate", beam=1, short=True)),
            Window(silence[:20_000]),
            Window(silence, Options("fr", prompt=NAME)),
            Window(clip("austen_0880"), Options("en", short=True)),
            Window(silence[:30_000], Options(beam=1)),
            Window(clip("leopard_en"), replace(SHORT, prompt=NAME)),
            Window(silence, Options(temperature=0.8)),
            Window(silence[:100], Options("es", "translate")),
        ]

    @pytest.fixture
    def readings(self, clip: Callable[[str], Clip]) -> Sequence[Window]:
        return [
            Window(clip("leopard_en"), replace(SHORT, temperature=0.8)),
            Window(clip("leopard_en"), replace(SHORT, before=NAME)),
            Window(clip("austen_0880"), replace(SHORT, temperature=0.4)),
        ]

    @pytest.mark.full
    @pytest.mark.parametrize("name", ["jfk", "leopard_es", "leopard_fr"])
    def test_it_detects_the_language_and_hears_what_is_said(
        self, engine: Engine, clip: Callable[[str], Clip], media: Path, name: str
    ) -> None:
        super().test_it_detects_the_language_and_hears_what_is_said(engine, clip, media, name)


@pytest.mark.parametrize(
    "options", [replace(SHORT, beam=5), pytest.param(replace(SHORT, temperature=0.8), marks=pytest.mark.full)]
)
def test_what_is_drawn_at_random_does_not_depend_on_what_was_drawn_before(
    with_base: EngineSettings, clip: Callable[[str], Clip], options: Options
) -> None:
    engine = load(with_base.model_copy(update={"threads": 1}))
    try:
        windows = [Window(clip(name), options) for name in ("leopard_en", "austen_0880", "leopard_en")]
        first, _, again = run(engine, windows)
        assert_alike([first], [again])
    finally:
        engine.close()


@pytest.mark.full
def test_it_hears_exactly_what_pywhispercpp_hears(
    whisper_cpp: Engine, base_ggml: Path, clip: Callable[[str], Clip]
) -> None:
    from pywhispercpp.model import Model as Library

    library = Library(
        str(base_ggml),
        redirect_whispercpp_logs_to=None,
        context_params={"flash_attn": False, "use_gpu": False},
        n_threads=1,
        print_progress=False,
        no_timestamps=True,
        suppress_nst=True,
        temperature_inc=0.0,
    )
    (segment,) = library.transcribe(clip("leopard_fr"), language="fr")
    assert hear(whisper_cpp, clip("leopard_fr"), Options("fr", beam=1)).text == segment.text


def test_it_detects_german_and_nothing_that_one_window_was_told_is_heard_in_the_next(
    with_base: EngineSettings, clip: Callable[[str], Clip], media: Path
) -> None:
    engine = load(with_base.model_copy(update={"threads": 1}))
    try:
        plain = Window(clip("leopard_de"), Options(beam=1))
        told = Window(clip("leopard_en"), Options("en", "translate", "Kwilter", "Kwilter", beam=1, short=True))
        before, _, after = run(engine, [plain, told, plain])
        assert_alike([before], [after])
        assert isinstance(before, Draft)
        assert before.language == "de"
        assert 0.9 < (before.language_probability or 0) <= 1
        # "liegt in der Raum" for "liegenden Raum", which CTranslate2 hears in float32 without a beam as well
        assert word_errors(reference(media, "leopard_de")[1], before.text) <= 0.4
    finally:
        engine.close()


def test_words_have_the_times_that_faster_whisper_gives_them(
    whisper_cpp: Engine, base: Engine, clip: Callable[[str], Clip]
) -> None:
    ours, theirs = (hear(engine, clip("jfk"), Options("en", beam=1)).words for engine in (whisper_cpp, base))
    assert [word.word for word in ours] == [word.word for word in theirs]
    off = [abs(a - b) for x, y in zip(ours, theirs, strict=True) for a, b in ((x.start, y.start), (x.end, y.end))]
    assert np.median(off) <= 0.06


@pytest.mark.parametrize("seconds", [0.05, 0.17])
def test_a_window_too_short_for_whisper_cpp_does_not_end_the_process(
    whisper_cpp: Engine, clip: Callable[[str], Clip], seconds: float
) -> None:
    samples = clip("austen_0880")[8_000 : 8_000 + round(seconds * 16_000)]
    assert all(word.end <= seconds for word in hear(whisper_cpp, samples, SHORT).words)


def test_a_window_that_nobody_waits_for_is_not_read_to_its_end(
    whisper_cpp: Engine, clip: Callable[[str], Clip]
) -> None:
    cancel = threading.Event()
    calls = 0

    class After(threading.Event):
        """Set once it has been looked at a few times: in the middle of decoding."""

        def is_set(self) -> bool:
            nonlocal calls
            calls += 1
            return calls > 4

    for flag in (After(), cancel):
        cancel.set()
        (result,) = whisper_cpp.run([whisper_cpp.prepare(Window(clip("jfk"), SHORT))], flag)
        assert isinstance(result, WindowError)
    assert 4 < calls < 10
    assert hear(whisper_cpp, clip("austen_0880"), SHORT).text.endswith("young man.")


def test_its_log_goes_nowhere(base_ggml: Path) -> None:
    loading = f"from pipeline.settings import EngineSettings as E; from stages.engines import load; \
load(E(backend='whisper_cpp', model={str(base_ggml)!r}, device='cpu', threads=1))"
    done = subprocess.run([sys.executable, "-c", loading], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_model_that_is_gone_cannot_be_brought_back(
    with_base: EngineSettings, base_ggml: Path, clip: Callable[[str], Clip], tmp_path: Path
) -> None:
    (tmp_path / "ggml-own.bin").symlink_to(base_ggml)
    engine = load(with_base.model_copy(update={"model": str(tmp_path / "ggml-own.bin"), "threads": 1}))
    window = Window(clip("austen_0880"), replace(SHORT, temperature=0.4))
    assert "young man" in hear(engine, window.samples, window.options).text
    (tmp_path / "ggml-own.bin").unlink()
    with pytest.raises(EngineLost, match=r"cannot be loaded any more: .*ggml-own\.bin"):
        run(engine, [window])
    engine.unload()
    with pytest.raises(EngineLost, match="cannot be loaded any more"):
        engine.reload()


def test_a_model_that_was_replaced_is_not_taken_in_the_middle_of_a_job(
    with_base: EngineSettings, base_ggml: Path, clip: Callable[[str], Clip], tmp_path: Path
) -> None:
    for name in ("ggml-own.bin", "other"):
        shutil.copy(base_ggml, tmp_path / name)
    engine = load(with_base.model_copy(update={"model": str(tmp_path / "ggml-own.bin"), "threads": 1}))
    window = Window(clip("austen_0880"), replace(SHORT, beam=2))
    assert isinstance(run(engine, [window])[0], Draft)
    (tmp_path / "other").replace(tmp_path / "ggml-own.bin")
    with pytest.raises(EngineLost, match=r"ggml-own\.bin is another file than it was"):
        run(engine, [window])
    engine.close()


def test_a_context_that_could_not_be_opened_can_be_closed(base_ggml: Path, tmp_path: Path) -> None:
    shutil.copy(base_ggml, tmp_path / "ggml-own.bin")
    context = Context(Model.at(tmp_path / "ggml-own.bin"), metal=False, threads=1)
    (tmp_path / "ggml-own.bin").unlink()
    with pytest.raises(EngineLost):
        context._renew()
    context.close()  # what was freed is not freed again, which would end the process


def test_a_prompt_is_heeded_in_the_most_random_reading(whisper_cpp: Engine, clip: Callable[[str], Clip]) -> None:
    draft = hear(whisper_cpp, clip("leopard_en"), replace(SHORT, prompt=NAME, temperature=0.8))
    assert "Kwilter" in draft.text
    assert draft.temperature == 0.8


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has niceness by thread")
def test_its_lanes_let_those_go_first_that_answer_requests(whisper_cpp: Engine, clip: Callable[[str], Clip]) -> None:
    assert niceness_inside(whisper_cpp, Window(clip("austen_0880"), SHORT)) == os.nice(0) + NICENESS


@pytest.mark.parametrize("size", [200, 1_000_000])
def test_a_damaged_model_is_said_in_one_sentence(
    with_base: EngineSettings, base_ggml: Path, tmp_path: Path, size: int
) -> None:
    with base_ggml.open("rb") as whole:
        (tmp_path / "ggml-cut.bin").write_bytes(whole.read(size))
    with pytest.raises(ConfigError, match=r"cannot load .*ggml-cut\.bin"):
        load(with_base.model_copy(update={"model": str(tmp_path / "ggml-cut.bin")}))


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac has Metal")
def test_metal_that_is_not_there_is_said_in_one_sentence(base_ggml: Path) -> None:
    with pytest.raises(ConfigError, match="no Metal on this machine"):
        Context(Model.at(base_ggml), metal=True, threads=1)


def test_the_precision_is_that_of_the_file(with_base: EngineSettings, whisper_cpp: Engine) -> None:
    assert whisper_cpp.info.compute_type == "float16"
    load(with_base.model_copy(update={"compute_type": "float16", "threads": 1})).close()
    with pytest.raises(ConfigError, match="ENGINE__COMPUTE_TYPE=int8"):
        load(with_base.model_copy(update={"compute_type": "int8"}))


@pytest.mark.parametrize(
    ("asked", "system", "machine", "device"),
    [
        ("auto", "darwin", "arm64", "mps"),
        ("auto", "darwin", "x86_64", "cpu"),
        ("auto", "linux", "arm64", "cpu"),
        ("cpu", "darwin", "arm64", "cpu"),
        ("mps", "darwin", "arm64", "mps"),
    ],
)
def test_a_device_is_chosen(asked: str, system: str, machine: str, device: str) -> None:
    assert choose_device(asked, system=system, machine=machine) == device


@pytest.mark.parametrize("asked", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_said_in_one_sentence(asked: str) -> None:
    with pytest.raises(ConfigError, match=f"ENGINE__DEVICE={asked}, but .*set it to"):
        choose_device(asked, system="linux", machine="x86_64")


def tokens(*contents: bytes) -> list[Token]:
    """One a tenth of a second, the first with a probability of 1 and each next with an eighth less."""
    return [Token(content, (n + 1) / 10, 1 - n / 8) for n, content in enumerate(contents)]


def test_tokens_become_words_at_the_spaces_before_them() -> None:
    assert list(joined(tokens(b" An", b" ill", b"-", b"disposed", b",", b" (", b"man", b")."), spaceless=False)) == [
        Aligned(" An", 0.0, 0.1, 1.0),
        Aligned(" ill-disposed,", 0.1, 0.4, 0.75),
        Aligned(" (man).", 0.6, 0.7, 0.25),
    ]


def test_characters_spread_over_tokens_are_put_together() -> None:
    first, last = "“東京。".encode(), "です".encode()
    words = joined(tokens(first[:4], first[4:7], first[7:], last, last[:2]), spaceless=True)
    assert [(word.word, word.start, word.end) for word in words] == [
        ("“東", 0.1, 0.2),
        ("京。", 0.2, 0.3),
        ("です", 0.3, 0.4),
    ]
