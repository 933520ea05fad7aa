"""Whisper base and tiny.en, as they really are, through CTranslate2."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faster_whisper import WhisperModel

from pipeline.errors import ConfigError
from pipeline.settings import EngineSettings
from stages.engines import Draft, Engine, Options, Window, WindowError, load, weights
from tests.conformance.engine_suite import Clip, hear, run
from tests.conformance.whisper_suite import WhisperSuite

pytestmark = pytest.mark.weights

NAMES = ["jfk", "leopard_de", "leopard_es", "leopard_fr", "leopard_en", "austen_0870", "austen_0880"]


class TestFasterWhisper(WhisperSuite):
    @pytest.fixture
    def engine(self, base: Engine) -> Engine:
        return base


@pytest.fixture(scope="session")
def library(base: Engine) -> WhisperModel:
    """The same weights in the library's own hands."""
    return WhisperModel(str(weights.find(base.info.model, EngineSettings())), device="cpu", compute_type="int8")


@pytest.mark.parametrize("name", NAMES)
def test_it_hears_exactly_what_faster_whisper_hears(
    base: Engine, library: WhisperModel, clip: Callable[[str], Clip], name: str
) -> None:
    samples = clip(name)
    # Given 30 s, the library looks at the same features as we do; what follows its first segment is made of silence.
    padded = np.pad(samples, (0, 480_000 - len(samples)))
    segments, info = library.transcribe(
        padded,
        beam_size=5,
        temperature=0,
        without_timestamps=True,
        word_timestamps=True,
        condition_on_previous_text=False,
    )
    theirs, ours = next(iter(segments)), hear(base, samples)
    assert ours.text == theirs.text.strip()
    assert ours.avg_logprob == pytest.approx(theirs.avg_logprob, abs=1e-3)
    assert ours.no_speech_prob == pytest.approx(theirs.no_speech_prob, abs=1e-3)
    assert ours.language_probability == pytest.approx(info.language_probability, abs=1e-3)
    assert [word.word for word in ours.words] == [word.word for word in theirs.words]
    assert [word.confidence for word in ours.words] == pytest.approx(
        [word.probability for word in theirs.words], abs=1e-3
    )
    # They align against 30 s, we against the window: a border may move by a few 20-ms steps.
    assert [word.end for word in ours.words] == pytest.approx([word.end for word in theirs.words], abs=0.12)


def test_languages_tasks_and_prompts_of_one_length_share_a_batch(base: Engine, clip: Callable[[str], Clip]) -> None:
    german, spanish = clip("leopard_de"), clip("leopard_es")
    keys = {
        base.batch_key(base.prepare(Window(samples, options)))
        for samples, options in (
            (german, Options()),
            (german, Options(task="translate")),
            (spanish, Options(language="es")),
        )
    }
    assert len(keys) == 1
    assert base.batch_key(base.prepare(Window(german, Options(prompt="Leichen")))) not in keys


def test_a_cancelled_batch_is_not_heard(base: Engine, clip: Callable[[str], Clip]) -> None:
    cancel = threading.Event()
    cancel.set()
    (result,) = base.run([base.prepare(Window(clip("jfk")))], cancel)
    assert isinstance(result, WindowError)


def test_an_english_only_model_hears_english_whatever_it_is_told(
    tiny_en_weights: Path, clip: Callable[[str], Clip]
) -> None:
    engine = load(EngineSettings(model=str(tiny_en_weights), device="cpu", threads=1, max_batch=2))
    try:
        assert engine.capabilities.languages == {"en"}
        assert not engine.capabilities.translate
        assert (engine.capabilities.lanes, engine.capabilities.max_batch) == (1, 2)
        first, second = run(engine, [Window(clip("jfk")), Window(clip("jfk"), Options(language="de"))])
        assert isinstance(first, Draft)
        assert first == second
        assert first.language == "en"
        assert "your country" in first.text
    finally:
        engine.close()


def test_what_this_machine_cannot_do_is_said_in_one_sentence(tiny_en_weights: Path) -> None:
    with pytest.raises(ConfigError, match="ENGINE__COMPUTE_TYPE=int3 is not for cpu"):
        load(EngineSettings(model=str(tiny_en_weights), device="cpu", compute_type="int3"))


def test_a_damaged_model_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"not a model")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be loaded on cpu"):
        load(EngineSettings(model=str(tmp_path), device="cpu"))
