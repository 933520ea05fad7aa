"""Whisper base and tiny.en, as they really are, through CTranslate2."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faster_whisper import WhisperModel

from pipeline.errors import ConfigError, EngineLost
from pipeline.settings import EngineSettings
from stages.engines import Draft, Engine, Options, Window, WindowError, load, weights
from stages.engines.checks import LOOP
from tests.conformance.engine_suite import Clip, hear, run
from tests.conformance.whisper_suite import WhisperSuite

pytestmark = pytest.mark.weights

NAMES = ["jfk", "leopard_de", "leopard_es", "leopard_fr", "leopard_en", "austen_0870", "austen_0880"]
KWILTER = "A talk with Mr. Kwilter, the painter."


class TestFasterWhisper(WhisperSuite):
    @pytest.fixture
    def engine(self, base: Engine) -> Engine:
        return base


@pytest.fixture(scope="session")
def library(base: Engine) -> WhisperModel:
    """The same weights in the library's own hands."""
    return WhisperModel(str(weights.find(base.info.model, EngineSettings())), device="cpu", compute_type="int8")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, Options()) for name in NAMES),
        ("jfk", Options(beam=1)),
        ("leopard_fr", Options(beam=1)),
        ("leopard_en", Options(prompt=KWILTER)),
    ],
)
def test_it_hears_exactly_what_faster_whisper_hears(
    base: Engine, library: WhisperModel, clip: Callable[[str], Clip], name: str, options: Options
) -> None:
    samples = clip(name)
    # Given 30 s, the library looks at the same features as we do; what follows its first segment is made of silence.
    padded = np.pad(samples, (0, 480_000 - len(samples)))
    segments, info = library.transcribe(
        padded,
        beam_size=options.beam,
        initial_prompt=options.prompt,
        temperature=0,
        without_timestamps=True,
        word_timestamps=True,
        condition_on_previous_text=False,
    )
    theirs, ours = next(iter(segments)), hear(base, samples, options)
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


def test_windows_after_long_texts_of_any_length_share_a_batch(base: Engine, clip: Callable[[str], Clip]) -> None:
    texts = [f"{'He spoke of his art. ' * count}It was {'very ' * count}late." for count in (40, 57, 110)]
    windows = [Window(clip("leopard_en"), Options(prompt=KWILTER, before=text)) for text in texts]
    assert len({base.batch_key(base.prepare(window)) for window in windows}) == 1


def backwards(clip: Callable[[str], Clip]) -> Clip:
    """Speech in which base hears one sentence over and over."""
    return np.ascontiguousarray(clip("jfk")[::-1])


def test_another_reading_repeats_itself_less(base: Engine, clip: Callable[[str], Clip]) -> None:
    readings = [
        hear(base, backwards(clip), Options(language="nl", temperature=temperature)) for temperature in (0.0, 0.4, 0.8)
    ]
    first, *others = [reading.compression_ratio or 0.0 for reading in readings]
    assert first > LOOP
    assert max(others) < LOOP
    assert len({reading.text for reading in readings}) == 3


@pytest.mark.parametrize(("seconds", "repeated"), [(1.4, 112), (3.0, 221)])
def test_a_loop_ends_at_the_bound_of_its_window_and_is_cut(base: Engine, seconds: float, repeated: int) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, round(seconds * 16_000)).astype(np.float32)
    draft = hear(base, noise, Options(language="en", beam=1, prompt="no " * 240))
    assert draft.cut
    assert draft.text.split() == ["no"] * repeated


def test_only_a_measured_model_that_is_told_the_language_takes_a_short_window(
    base: Engine, tiny_en_weights: Path, clip: Callable[[str], Clip]
) -> None:
    def costs(engine: Engine, options: Options) -> float:
        return engine.cost(engine.prepare(Window(clip("jfk"), options)))

    assert costs(base, Options(language="en", short=True)) < costs(base, Options(language="en")) * 0.7
    assert costs(base, Options(short=True)) == costs(base, Options())
    unmeasured = load(EngineSettings(model=str(tiny_en_weights), device="cpu", threads=1))
    try:
        assert costs(unmeasured, Options(language="en", short=True)) == costs(unmeasured, Options(language="en"))
    finally:
        unmeasured.close()


def test_a_model_whose_weights_are_gone_cannot_come_back(tiny_en_weights: Path, tmp_path: Path) -> None:
    for file in tiny_en_weights.iterdir():
        (tmp_path / file.name).symlink_to(file)
    engine = load(EngineSettings(model=str(tmp_path), device="cpu", threads=1))
    engine.unload()
    (tmp_path / "model.bin").unlink()
    with pytest.raises(EngineLost, match="cannot be loaded again"):
        engine.reload()


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
        assert engine.info.model == "tiny.en"
        assert not engine.capabilities.translate
        assert (engine.capabilities.lanes, engine.capabilities.max_batch) == (1, 2)
        first, second = run(engine, [Window(clip("jfk")), Window(clip("jfk"), Options(language="de"))])
        assert isinstance(first, Draft)
        assert first == second
        assert first.language == "en"
        assert "your country" in first.text
        assert hear(engine, np.zeros(16_000, np.float32), Options(language="de")).language == "en"
    finally:
        engine.close()


def test_a_model_with_fewer_layers_to_write_than_to_hear_does_not_translate(base_weights: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        (tmp_path / name).symlink_to(base_weights / name)
    whole = (base_weights / "model.bin").read_bytes()
    (tmp_path / "model.bin").write_bytes(re.sub(rb"decoder/layer_([345])/", rb"decoder/spare_\1/", whole))
    engine = load(EngineSettings(model=str(tmp_path), device="cpu", threads=1))
    try:
        assert "de" in engine.capabilities.languages
        assert not engine.capabilities.translate
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
