"""Whisper base and tiny.en, as they really are, through PyTorch."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigError, EngineLost
from pipeline.settings import EngineSettings
from stages.engines import BatchTooBig, Draft, Engine, Options, Window, WindowError, load
from stages.engines.device import NICENESS
from stages.engines.openai_whisper import OpenaiWhisper
from stages.engines.torch_device import choose_device, choose_precision, halve, watched
from tests.conformance.engine_suite import Clip, assert_alike, hear, niceness_inside, run
from tests.conformance.whisper_suite import WhisperSuite

torch = pytest.importorskip("torch")

NAMES = ["leopard_de", "austen_0880"]
PROMPTED = Options(beam=1, prompt="A reading, aloud.")
ABROAD = ["jfk", "leopard_es", "leopard_fr"]


@pytest.fixture(scope="module")
def torch_base(base_pt: Path) -> Iterator[Engine]:
    engine = load(EngineSettings(backend="openai_whisper", model=str(base_pt), device="cpu"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def library(base_pt: Path) -> Any:
    """The same weights in the library's own hands."""
    import whisper

    model = whisper.load_model(str(base_pt), device="cpu")
    model.set_alignment_heads(whisper._ALIGNMENT_HEADS["base"])
    return model.requires_grad_(False)


@pytest.mark.weights
class TestOpenaiWhisper(WhisperSuite):
    @pytest.fixture
    def engine(self, torch_base: Engine) -> Engine:
        return torch_base

    @pytest.fixture
    def plain(self) -> Options:
        return Options(beam=1)

    @pytest.fixture
    def german(self) -> Options:
        return Options(beam=1)

    @pytest.fixture
    def speech(self, clip: Callable[[str], Clip]) -> Sequence[Clip]:
        return [clip(name) for name in ("austen_0880", "leopard_de")]

    @pytest.fixture
    def mixed(self, clip: Callable[[str], Clip]) -> Sequence[Window]:
        """Eight in one batch, and half of them silent: every other one costs 1.5 s on one core."""
        silence = np.zeros(160_000, np.float32)
        return [
            Window(clip("leopard_de"), Options(beam=2)),
            Window(silence, Options(beam=2)),
            Window(clip("leopard_de"), Options(task="translate", beam=2)),
            Window(clip("austen_0880"), Options(language="en", beam=2)),
            Window(silence[:100], Options(language="fr", beam=2)),
            Window(silence[:30_000], Options(task="translate", beam=2)),
            Window(clip("leopard_en")[:60_000], Options(beam=2)),
            Window(silence[:60_000], Options(beam=2)),
        ]

    @pytest.fixture
    def readings(self, clip: Callable[[str], Clip]) -> Sequence[Window]:
        return [
            Window(clip("leopard_de"), Options(temperature=0.4)),
            Window(clip("austen_0880"), Options(temperature=0.8)),
            Window(clip("leopard_en"), Options(before="A talk with Mr. Kwilter, the painter.", beam=1)),
            Window(clip("austen_0880"), Options(language="en", short=True, beam=1)),
        ]

    @pytest.mark.parametrize("name", ["leopard_de", *(pytest.param(name, marks=pytest.mark.full) for name in ABROAD)])
    def test_it_detects_the_language_and_hears_what_is_said(
        self, engine: Engine, clip: Callable[[str], Clip], media: Path, name: str
    ) -> None:
        super().test_it_detects_the_language_and_hears_what_is_said(engine, clip, media, name)


def of_thirty_seconds(samples: Clip) -> Clip:
    return np.pad(samples, (0, 480_000 - len(samples)))


@pytest.mark.weights
@pytest.mark.parametrize("options", [pytest.param(Options(), marks=pytest.mark.full), PROMPTED], ids=str)
def test_windows_side_by_side_are_heard_as_the_library_hears_each(
    torch_base: Engine, library: Any, clip: Callable[[str], Clip], options: Options
) -> None:
    import whisper

    how = {"beam_size": options.beam} if options.beam > 1 else {}
    drafts = run(torch_base, [Window(clip(name), options) for name in NAMES])
    for name, draft in zip(NAMES, drafts, strict=True):
        mel = whisper.log_mel_spectrogram(of_thirty_seconds(clip(name)))
        heard = library.embed_audio(mel[None])
        _, (languages,) = whisper.detect_language(library, heard)
        asked = whisper.DecodingOptions(without_timestamps=True, fp16=False, prompt=options.prompt, **how)
        (theirs,) = whisper.decode(library, heard, asked)
        assert isinstance(draft, Draft)
        assert draft.text == theirs.text
        assert draft.avg_logprob == pytest.approx(theirs.avg_logprob, abs=5e-4)
        assert draft.no_speech_prob == pytest.approx(theirs.no_speech_prob, abs=5e-4)
        assert draft.language == theirs.language
        assert draft.language_probability == pytest.approx(languages[theirs.language], abs=5e-4)


@pytest.mark.weights
def test_words_are_where_the_library_finds_them(torch_base: Engine, library: Any, clip: Callable[[str], Clip]) -> None:
    import whisper
    from whisper.timing import find_alignment, merge_punctuations
    from whisper.tokenizer import get_tokenizer

    samples = clip("jfk")
    draft = hear(torch_base, samples, Options(language="en", beam=1))
    tokenizer = get_tokenizer(True, language="en", task="transcribe")
    mel = whisper.log_mel_spectrogram(of_thirty_seconds(samples))
    theirs = find_alignment(library, tokenizer, tokenizer.encode(" " + draft.text), mel, len(samples) // 160)
    merge_punctuations(theirs, "", ",.")
    theirs = [word for word in theirs if word.word]
    assert [word.word for word in draft.words] == [word.word for word in theirs]
    assert [word.end for word in draft.words] == pytest.approx([word.end for word in theirs], abs=0.021)
    assert [word.confidence for word in draft.words] == pytest.approx([word.probability for word in theirs], abs=1e-3)


@pytest.mark.full
@pytest.mark.weights
def test_another_reading_is_drawn_by_the_window_and_is_the_same_each_time(
    torch_base: Engine, clip: Callable[[str], Clip]
) -> None:
    first, second = (
        Window(clip("leopard_es"), Options(temperature=0.8)),
        Window(clip("austen_0880"), Options(temperature=0.8)),
    )
    drafts = run(torch_base, [first, second, first])
    alone = hear(torch_base, first.samples, first.options)
    assert_alike([drafts[0], drafts[2]], [alone, alone])
    assert isinstance(drafts[0], Draft)
    assert drafts[0].text != hear(torch_base, first.samples, Options(beam=1)).text
    keys = {torch_base.batch_key(torch_base.prepare(window)) for window in (first, second, first)}
    assert len(keys) == 2


@pytest.mark.weights
def test_languages_tasks_and_prompts_of_one_length_share_a_batch(
    torch_base: Engine, clip: Callable[[str], Clip]
) -> None:
    german, spanish = clip("leopard_de"), clip("leopard_es")

    def key(samples: Clip, options: Options) -> object:
        return torch_base.batch_key(torch_base.prepare(Window(samples, options)))

    assert key(german, Options()) == key(german, Options(task="translate")) == key(spanish, Options(language="es"))
    assert key(german, Options(prompt="Leichen")) == key(spanish, Options(prompt="Leichen")) != key(german, Options())
    assert key(german, Options(beam=1)) != key(german, Options())


class SetAfter(threading.Event):
    """A flag that is set once it was looked at so many times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def is_set(self) -> bool:
        self.looks -= 1
        return self.looks < 0


@pytest.mark.weights
@pytest.mark.parametrize("looks", [0, 20, pytest.param(60, marks=pytest.mark.full)])
def test_a_batch_that_nobody_waits_for_ends_at_once_wherever_it_is(
    torch_base: Engine, clip: Callable[[str], Clip], looks: int
) -> None:
    items = [torch_base.prepare(Window(clip(name))) for name in ("austen_0880", "leopard_de")]
    flag = SetAfter(looks)
    results = torch_base.run(items, flag)
    assert all(isinstance(result, WindowError) for result in results)
    assert flag.looks == -1
    assert "young man" in hear(torch_base, clip("austen_0880"), Options("en", beam=1)).text


@pytest.mark.weights
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has niceness by thread")
def test_its_lanes_let_those_go_first_that_answer_requests(torch_base: Engine, clip: Callable[[str], Clip]) -> None:
    assert niceness_inside(torch_base, Window(clip("austen_0880"))) == os.nice(0) + NICENESS


@pytest.mark.full
@pytest.mark.weights
def test_it_hears_as_well_in_half_precision(torch_base: Engine, base_pt: Path, clip: Callable[[str], Clip]) -> None:
    engine = load(EngineSettings(backend="openai_whisper", model=str(base_pt), device="cpu", threads=1))
    assert isinstance(engine, OpenaiWhisper)
    model = engine._lanes.get()
    halve(model.whisper)
    engine._lanes.put(model)
    half, whole = (hear(one, clip("jfk"), Options(beam=1)) for one in (engine, torch_base))
    engine.close()
    assert half.text == whole.text
    assert half.avg_logprob == pytest.approx(whole.avg_logprob, abs=0.02)
    assert [word.end for word in half.words] == pytest.approx([word.end for word in whole.words], abs=0.1)


@pytest.mark.weights
def test_a_window_of_one_frame_is_no_trouble(torch_base: Engine, clip: Callable[[str], Clip]) -> None:
    (result,) = run(torch_base, [Window(clip("jfk")[20_000:20_320])])
    assert isinstance(result, Draft)
    assert all(0 <= word.start <= word.end <= 0.02 for word in result.words)


@pytest.mark.weights
def test_an_english_only_model_hears_english_whatever_it_is_told(
    tiny_en_weights: Path, tmp_path: Path, clip: Callable[[str], Clip]
) -> None:
    tool = Path(__file__).parents[2] / "scripts/convert-weights.py"
    file = tmp_path / "mine.pt"
    subprocess.run([sys.executable, str(tool), str(tiny_en_weights), "--to", "pt", "--output", str(file)], check=True)
    engine = load(EngineSettings(backend="openai_whisper", model=str(file), device="cpu", threads=1, max_batch=2))
    try:
        assert engine.capabilities.languages == {"en"}
        assert not engine.capabilities.translate
        assert (engine.capabilities.lanes, engine.capabilities.max_batch) == (1, 2)
        first, second = run(engine, [Window(clip("jfk"), Options(beam=1)), Window(clip("jfk"), Options("de", beam=1))])
        assert isinstance(first, Draft)
        assert first == second
        assert (first.language, first.language_probability) == ("en", None)
        assert "your country" in first.text
        silence = hear(engine, np.zeros(16_000, np.float32), Options(language="de"))
        assert (silence.language, silence.language_probability) == ("en", None)
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("asked", "cuda", "mps", "chosen"),
    [
        ("auto", True, True, "cuda"),
        ("auto", False, True, "mps"),
        ("auto", False, False, "cpu"),
        ("cpu", True, True, "cpu"),
        ("mps", True, True, "mps"),
    ],
)
def test_the_device_is_the_one_asked_for_or_the_best_there_is(asked: str, cuda: bool, mps: bool, chosen: str) -> None:
    assert choose_device(asked, cuda=cuda, mps=mps) == chosen


@pytest.mark.parametrize(("asked", "sentence"), [("cuda", "no CUDA or ROCm card"), ("mps", "no Metal")])
def test_a_device_that_is_not_there_is_said_in_one_sentence(asked: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"ENGINE__DEVICE={asked}.*{sentence}.*set it to cpu or auto"):
        choose_device(asked, cuda=False, mps=False)


def test_a_card_computes_in_half_precision_unless_it_is_told_otherwise() -> None:
    assert choose_precision("auto", "cuda") == "float16"
    assert choose_precision("float32", "cuda") == "float32"
    assert choose_precision("auto", "cpu") == choose_precision("auto", "mps") == "float32"


@pytest.mark.parametrize(("asked", "device"), [("int8", "cpu"), ("float16", "mps"), ("bfloat16", "cuda")])
def test_a_precision_that_it_does_not_compute_in_is_said_in_one_sentence(asked: str, device: str) -> None:
    with pytest.raises(ConfigError, match=rf"ENGINE__COMPUTE_TYPE={asked} is not for openai_whisper on {device}; use"):
        choose_precision(asked, device)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), BatchTooBig),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB)."), BatchTooBig),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), BatchTooBig),
        (RuntimeError("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED"), BatchTooBig),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), EngineLost),
        (RuntimeError("HIP error: unspecified launch failure"), EngineLost),
        (RuntimeError("shape '[3, -1, 512]' is invalid for input of size 1024"), RuntimeError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value)[:20],
)
def test_what_became_of_the_device_is_told_from_a_batch_that_failed(error: Exception, told: type[Exception]) -> None:
    with pytest.raises(told) as raised, watched():
        raise error
    assert raised.type is told


@pytest.mark.parametrize("damaged", [b"not a model", b"", pickle.dumps({"dims": {}}), pickle.dumps([1])])
def test_a_file_that_is_no_model_is_said_in_one_sentence(tmp_path: Path, damaged: bytes) -> None:
    refuse(tmp_path / "base.pt", damaged)


@pytest.mark.weights
def test_a_model_that_is_cut_or_of_another_form_is_said_in_one_sentence(
    tmp_path: Path, base_pt: Path, base_ggml: Path
) -> None:
    refuse(tmp_path / "base.pt", base_pt.read_bytes()[:100_000])
    refuse(tmp_path / "base.pt", base_ggml.read_bytes()[:100_000])


def refuse(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        load(EngineSettings(backend="openai_whisper", model=str(file), device="cpu"))
    assert str(raised.value) == f"{file} is not a .pt file of openai-whisper, or is damaged."
