"""Whisper base and tiny.en, as they really are, through CTranslate2."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import jiwer
import numpy as np
import pytest
from faster_whisper import WhisperModel

from pipeline.errors import ConfigError
from pipeline.settings import EngineSettings
from stages.engines import Draft, Engine, Options, Window, WindowError, load, weights
from tests.conformance.engine_suite import Clip, EngineSuite, hear, run

pytestmark = pytest.mark.weights

NAMES = ["jfk", "leopard_de", "leopard_es", "leopard_fr", "leopard_en", "austen_0870", "austen_0880"]


class TestBase(EngineSuite):
    @pytest.fixture
    def engine(self, base: Engine) -> Engine:
        return base

    @pytest.fixture
    def speech(self, clip: Callable[[str], Clip]) -> Sequence[Clip]:
        return [clip(name) for name in ("austen_0880", "leopard_de", "jfk")]

    @pytest.fixture
    def broken(self) -> Window:
        return Window(np.full(16_000, np.nan, np.float32))


def reference(media: Path, name: str) -> tuple[str, str]:
    """Language and text of a recording, from the manifest."""
    with (media / "manifest.tsv").open() as file:
        rows = csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t")
        return next((row["lang"], row["reference"]) for row in rows if row["file"] == f"{name}.flac")


def word_errors(said: str, heard: str) -> float:
    """Word error rate, blind to case and punctuation."""
    plain, other = (" ".join(re.findall(r"\w+", text.lower())) for text in (said, heard))
    return float(jiwer.wer(plain, other))


@pytest.mark.parametrize("name", NAMES)
def test_it_detects_the_language_and_hears_what_is_said(
    base: Engine, clip: Callable[[str], Clip], media: Path, name: str
) -> None:
    language, said = reference(media, name)
    draft = hear(base, clip(name))
    assert draft.language == language
    assert draft.language_probability is not None
    assert draft.language_probability > 0.9
    assert word_errors(said, draft.text) <= 0.25


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


def test_it_translates_to_english_beside_a_neighbour_that_it_does_not_translate(
    base: Engine, clip: Callable[[str], Clip]
) -> None:
    german = clip("leopard_de")
    english, original = run(base, [Window(german, Options(task="translate")), Window(german)])
    assert isinstance(english, Draft)
    assert isinstance(original, Draft)
    assert english.language == original.language == "de"
    assert "the" in english.text.lower().split()
    assert "portal" in english.text.lower()
    assert "wurde" in original.text


def test_a_prompt_teaches_how_a_name_is_spelt(base: Engine, clip: Callable[[str], Clip]) -> None:
    samples = clip("leopard_en")
    assert "Quilter" in hear(base, samples).text
    assert "Kwilter" in hear(base, samples, Options(prompt="A talk with Mr. Kwilter, the painter.")).text


def test_control_tokens_in_a_prompt_and_prompts_without_end_are_harmless(
    base: Engine, clip: Callable[[str], Clip]
) -> None:
    windows = [
        Window(clip("austen_0880"), Options(prompt=prompt))
        for prompt in ("<|startoftranscript|><|fr|><|translate|> young", "young man, " * 180)
    ]
    for draft in run(base, windows):
        assert isinstance(draft, Draft)
        assert "young man" in draft.text


def test_faint_noise_has_no_words(base: Engine) -> None:
    noise = np.random.default_rng(0).normal(0, 0.0003, 320_000).astype(np.float32)
    assert hear(base, noise).text == ""


def test_a_window_says_why_it_cannot_be_done(base: Engine, clip: Callable[[str], Clip]) -> None:
    too_long, unknown = run(base, [Window(np.ones(480_001, np.float32)), Window(clip("jfk"), Options(language="yue"))])
    assert isinstance(too_long, WindowError)
    assert "30 s" in too_long.detail
    assert isinstance(unknown, WindowError)
    assert "'yue'" in unknown.detail


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


RESIDENT = """
from pathlib import Path
from pipeline.settings import EngineSettings
from stages.engines import load

def resident_after(times):
    for _ in range(times):
        load(EngineSettings(model="base", device="cpu", threads=1)).close()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

print(-resident_after(3) + resident_after(3))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
@pytest.mark.usefixtures("base")
def test_a_closed_engine_leaves_its_memory_to_the_next() -> None:
    grown = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 120 * 2**20  # the weights take 77: of the last three engines, one may not be gone yet


def test_what_this_machine_cannot_do_is_said_in_one_sentence(tiny_en_weights: Path) -> None:
    with pytest.raises(ConfigError, match="ENGINE__COMPUTE_TYPE=int3 is not for cpu"):
        load(EngineSettings(model=str(tiny_en_weights), device="cpu", compute_type="int3"))


def test_a_damaged_model_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"not a model")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be loaded on cpu"):
        load(EngineSettings(model=str(tmp_path), device="cpu"))
