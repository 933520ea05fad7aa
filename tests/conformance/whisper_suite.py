"""What every engine with Whisper's multilingual base weights hears: speech, languages, prompts, and not silence."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jiwer
import numpy as np
import pytest

from pipeline.settings import EngineSettings
from stages.engines import Draft, Engine, Options, Window, WindowError
from tests.conformance.engine_suite import Clip, EngineSuite, assert_alike, hear, run

ENDLESS = "young man, " * 180

# Megabytes that an engine takes when it is loaded and has heard a window, and those that stay when it is closed. What
# its library takes for good, it took for an engine before.
MEMORY = """
import sys
from pathlib import Path
import numpy as np
from pipeline.settings import EngineSettings
from stages.engines import CancelFlag, Options, Window, load

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024

def used():
    engine = load(EngineSettings.model_validate_json(sys.argv[1]))
    noise = np.random.default_rng(0).normal(0, 0.1, 80_000).astype(np.float32)
    engine.run([engine.prepare(Window(noise, Options(language="en", beam=1, short=True)))], CancelFlag())
    return engine

used().close()
before = resident()
engine = used()
loaded = resident()
engine.close()
print(loaded - before, resident() - before)
"""


def reference(media: Path, name: str) -> tuple[str, str]:
    """Language and text of a recording, from the manifest."""
    with (media / "manifest.tsv").open() as file:
        rows = csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t")
        return next((row["lang"], row["reference"]) for row in rows if row["file"] == f"{name}.flac")


def word_errors(said: str, heard: str) -> float:
    """Word error rate, blind to case and punctuation."""
    plain, other = (" ".join(re.findall(r"\w+", text.lower())) for text in (said, heard))
    return float(jiwer.wer(plain, other))


class WhisperSuite(EngineSuite):
    @pytest.fixture
    def settings(self, engine: Engine) -> EngineSettings:
        """With which a process of its own loads the same engine."""
        return EngineSettings.model_validate(
            {"backend": engine.info.backend, "model": engine.info.model, "device": "cpu", "threads": 1}
        )

    @pytest.fixture
    def speech(self, clip: Callable[[str], Clip]) -> Sequence[Clip]:
        return [clip(name) for name in ("austen_0880", "leopard_de", "jfk")]

    @pytest.fixture
    def broken(self) -> Window:
        return Window(np.full(16_000, np.nan, np.float32))

    @pytest.fixture
    def german(self) -> Options:
        """As ``plain``, for German."""
        return Options()

    @pytest.fixture
    def mixed(self, clip: Callable[[str], Clip]) -> Sequence[Window]:
        return [
            Window(clip("leopard_de")),
            Window(clip("leopard_de"), Options(task="translate")),
            Window(clip("leopard_es"), Options(language="es")),
            Window(clip("jfk")),
            Window(clip("leopard_fr"), Options(beam=1)),
            Window(clip("austen_0870"), Options(beam=1)),
            Window(clip("leopard_en"), Options(prompt="A talk with Mr. Kwilter, the painter.")),
            Window(clip("austen_0880"), Options(prompt="A reading of an old novel, aloud.")),
        ]

    @pytest.fixture
    def readings(self, clip: Callable[[str], Clip]) -> Sequence[Window]:
        """At all temperatures, behind a text, and short: with texts of different lengths in one language."""
        short = Options(language="en", beam=1, short=True)
        return [
            Window(clip("leopard_de"), Options(temperature=0.4)),
            Window(clip("austen_0880"), Options(temperature=0.8)),
            Window(clip("leopard_en"), Options(before="A talk with Mr. Kwilter, the painter.")),
            Window(clip("austen_0930"), Options(temperature=0.4)),
            *(Window(clip("leopard_en")[:samples], short) for samples in (25_000, 40_000, 64_000)),
            *(Window(clip("austen_0870")[:samples], short) for samples in (32_000, 56_000, 80_000)),
        ]

    def test_it_is_called_by_the_name_of_its_weights_wherever_they_lie(self, engine: Engine) -> None:
        assert engine.info.model == "base"

    @pytest.mark.parametrize("name", ["jfk", "leopard_de", "leopard_es", "leopard_fr"])
    def test_it_detects_the_language_and_hears_what_is_said(
        self, engine: Engine, clip: Callable[[str], Clip], media: Path, name: str
    ) -> None:
        language, said = reference(media, name)
        draft = hear(engine, clip(name))
        assert draft.language == language
        assert draft.language_probability is not None
        assert 0.9 < draft.language_probability <= 1
        assert word_errors(said, draft.text) <= 0.25
        assert not draft.cut

    def test_its_probabilities_are_probabilities(
        self, engine: Engine, clip: Callable[[str], Clip], plain: Options
    ) -> None:
        draft = hear(engine, clip("jfk"), plain)
        assert draft.avg_logprob is not None
        assert -1 < draft.avg_logprob <= 0
        assert draft.no_speech_prob is None or 0 <= draft.no_speech_prob < 0.6
        assert all(0 < word.confidence <= 1 for word in draft.words)
        assert np.mean([word.confidence for word in draft.words]) > 0.7

    def test_it_translates_to_english_beside_a_neighbour_that_it_does_not_translate(
        self, engine: Engine, clip: Callable[[str], Clip], german: Options
    ) -> None:
        samples = clip("leopard_de")
        english, original = run(engine, [Window(samples, replace(german, task="translate")), Window(samples, german)])
        assert isinstance(english, Draft)
        assert isinstance(original, Draft)
        assert english.language == original.language == "de"
        assert "the" in english.text.lower().split()
        assert "portal" in english.text.lower()
        assert "wurde" in original.text

    def test_a_prompt_teaches_how_a_name_is_spelt(
        self, engine: Engine, clip: Callable[[str], Clip], plain: Options
    ) -> None:
        samples, name = clip("leopard_en"), "A talk with Mr. Kwilter, the painter."
        assert "Quilter" in hear(engine, samples, plain).text
        assert "Kwilter" in hear(engine, samples, replace(plain, prompt=name)).text

    def test_so_does_the_text_before_it_and_a_prompt_keeps_its_place_before_a_long_one(
        self, engine: Engine, clip: Callable[[str], Clip], plain: Options
    ) -> None:
        samples, name = clip("leopard_en"), "A talk with Mr. Kwilter, the painter."
        assert "Kwilter" in hear(engine, samples, replace(plain, before=name)).text
        long = "He spoke of his art. " * 180
        assert "Kwilter" in hear(engine, samples, replace(plain, prompt=name, before=long)).text

    def test_control_tokens_in_a_prompt_and_prompts_without_end_are_harmless(
        self, engine: Engine, clip: Callable[[str], Clip], plain: Options
    ) -> None:
        control = "<|startoftranscript|><|fr|><|translate|> young"
        told = [(control, None), (None, control), (ENDLESS, None), (None, ENDLESS)]
        options = [replace(plain, prompt=prompt, before=before) for prompt, before in told]
        for draft in run(engine, [Window(clip("austen_0880"), each) for each in options]):
            assert isinstance(draft, Draft)
            assert "young man" in draft.text

    def test_another_reading_text_before_it_and_short_windows_are_the_same_alone_and_in_company(
        self, engine: Engine, readings: Sequence[Window]
    ) -> None:
        together = run(engine, readings)
        asked = [window.options.temperature for window in readings]
        assert [draft.temperature for draft in together if isinstance(draft, Draft)] == asked
        assert_alike(together, [draft for window in readings for draft in run(engine, [window])])

    def test_a_short_window_is_heard_as_well(self, engine: Engine, clip: Callable[[str], Clip], media: Path) -> None:
        draft = hear(engine, clip("jfk"), Options(language="en", beam=1, short=True))
        assert word_errors(reference(media, "jfk")[1], draft.text) <= 0.25

    def test_faint_noise_has_no_words(self, engine: Engine) -> None:
        noise = np.random.default_rng(0).normal(0, 0.0003, 320_000).astype(np.float32)
        assert hear(engine, noise).text == ""

    def test_a_window_says_why_it_cannot_be_done(self, engine: Engine, clip: Callable[[str], Clip]) -> None:
        windows = [Window(np.ones(480_001, np.float32)), Window(clip("jfk"), Options(language="yue"))]
        too_long, unknown = run(engine, windows)
        assert isinstance(too_long, WindowError)
        assert "30 s" in too_long.detail
        assert isinstance(unknown, WindowError)
        assert "'yue'" in unknown.detail

    def test_a_model_that_was_away_hears_what_it_heard_before(
        self, engine: Engine, speech: Sequence[Clip], plain: Options
    ) -> None:
        windows = [Window(samples, plain) for samples in speech]
        before = run(engine, windows)
        engine.unload()
        while_away = engine.prepare(windows[0])
        engine.reload()
        assert_alike(run(engine, windows), before)
        assert engine.batch_key(while_away) == engine.batch_key(engine.prepare(windows[0]))

    @pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
    def test_close_frees_its_memory(self, settings: EngineSettings) -> None:
        child = [sys.executable, "-c", MEMORY, settings.model_dump_json()]
        taken, left = map(int, subprocess.run(child, capture_output=True, text=True, check=True).stdout.split())
        assert taken > 60  # the weights alone are 77 or more
        assert left < taken / 3
