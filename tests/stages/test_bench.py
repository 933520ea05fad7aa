"""The benchmarks, as far as a test can go: that they can be run, and judge what they saw as they should."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import Unmeasured, align, children, decode, goodput, overlap, plot, queue
from bench.__main__ import main
from bench.figures import Figure
from bench.watched import Batch, Watched
from stages.engines.mock import MockEngine, Script


def quick(benchmark: str) -> str:
    """What the command prints."""
    command = [sys.executable, "-m", "bench", benchmark, "--quick"]
    done = subprocess.run(command, cwd=Path(overlap.__file__).parent.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_name_every_benchmark_is_listed_with_its_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    targets = {name: target for name, *_, target in (line.split("  ") for line in lines)}
    assert {"overlap", "goodput", "multitrack", "align", "decode", "api", "queue", "faults"} <= targets.keys()
    assert "≥ 0.97" in targets["overlap"]
    assert "≥ 0.97" in targets["goodput"]
    assert "≤ 1.25 × the downmix" in targets["multitrack"]
    assert "≤ 5 ms" in targets["align"]
    assert "≤ 50 ms" in targets["api"]
    assert "≤ 2 × the plain claim" in targets["queue"]


def test_the_overlap_of_a_mock_is_judged_against_its_target() -> None:
    case = replace(overlap.mock(quick=True), jobs=32, one_by_one=2, jobs_in_flight=32)
    report = overlap.measure(case, repetitions=1)
    judged = [figure.name for figure in report.figures if figure.verdict in ("met", "missed")]
    assert judged == ["mock: busy share of the engine, with a backlog", "mock: goodput, with a backlog"]
    assert {"met", "missed"} & set(str(report).split())


def test_a_fast_engine_is_judged_by_what_the_chain_makes_of_it(tmp_path: Path) -> None:
    report = goodput.measure(tmp_path, jobs=200, repetitions=1)
    judged = [figure.name for figure in report.figures if figure.verdict in ("met", "missed")]
    assert judged == ["goodput, through the chain"]
    assert all(figure.values[0] > 0 for figure in report.figures)


def test_a_late_stream_with_a_hole_is_in_time_for_us_and_not_for_whoever_joins_its_frames() -> None:
    container = align.Container("matroska", ("aac",), late=True, holes=True)
    ours, joined = align.measure(container, quick=True)
    assert ours.verdict == "met"
    assert joined.values[0] > 1000


def test_ten_minutes_of_eight_tracks_take_the_memory_of_one() -> None:
    *_, ratio = decode.memory(60, 600)
    assert ratio.verdict == "met"


@pytest.mark.postgres
def test_the_queue_is_judged_by_its_claims_its_cycles_and_what_the_chain_makes_of_it(tmp_path: Path) -> None:
    extent = queue.Extent(pending=(0, 10_000), claims=20, seconds=1, cycles=40, jobs=10)
    report = queue.measure(tmp_path, extent)
    judged = [figure.name for figure in report.figures if figure.verdict]
    assert judged == [
        "claim, 10,000 waiting: 99th percentile",
        "claim, 10,000 waiting: fair over plain",
        "full cycles in SQL",
        "jobs through the whole chain",
    ]
    assert all(figure.values[0] > 0 for figure in report.figures)


@pytest.mark.full
def test_speed_is_told_of_every_codec_for_one_track_and_for_eight() -> None:
    figures = list(decode.speed(10, repetitions=1))
    assert len(figures) == 2 * 2 * len(decode.CODECS)
    assert all(figure.values[0] > 0 for figure in figures)


@pytest.mark.full
@pytest.mark.weights
@pytest.mark.postgres
def test_the_overlap_of_both_engines_is_measured_by_one_command() -> None:
    told = quick("overlap")
    assert {"met", "missed"} & set(told.split())
    assert "real: goodput" in told


@pytest.mark.full
@pytest.mark.weights
def test_a_meeting_is_measured_by_one_command() -> None:
    told = quick("multitrack")
    assert "4: CPU, faster-whisper batched, over ours" in told


@pytest.mark.full
@pytest.mark.weights
def test_engines_are_measured_beside_their_libraries_by_one_command() -> None:
    told = quick("engines")
    for beam in ("faster_whisper library, beam 1, over ours", "faster_whisper library, over ours"):
        assert f"faster_whisper fast, beam 1, batch 8: CPU of the {beam}" in told
    for backend in ("faster_whisper", "openai_whisper", "whisper_cpp"):
        assert f"CPU of the {backend} library, over ours" in told
    assert "of the ceiling" in told


@pytest.mark.full
@pytest.mark.weights
def test_the_words_that_are_wrong_are_counted_by_one_command() -> None:
    told = quick("accuracy")
    for quality in ("fast", "balanced", "accurate"):
        assert f"faster_whisper: {quality}, beyond the library" in told
        assert f"faster_whisper, {quality}: more words wrong than the library's in: " in told


def test_a_child_that_fails_is_told_by_its_last_words_and_its_exit_code() -> None:
    with pytest.raises(Unmeasured, match=r"^It failed with exit code 1: KeyError: 'nobody'$"):
        children.told("It", "bench.accuracy", "nobody")
    with pytest.raises(Unmeasured, match=r"^It failed with exit code 3: it said nothing$"):
        children.told("It", "timeit", "-s", "import os", "os._exit(3)")


def test_the_same_figures_are_drawn_as_the_same_file(tmp_path: Path) -> None:
    panels = [plot.Panel("Wall time", {1: [1.0], 4: [1.1, 1.2]}, {1: [1.0], 4: [1.6, 1.5]})] * 2
    for name in ("first", "second"):
        plot.save(tmp_path / name / "curves.svg", panels)
    first, second = [(tmp_path / name / "curves.svg").read_text() for name in ("first", "second")]
    assert first == second
    assert {"multitrack", "a job for each track", "downmix"} <= set(re.findall(r">([^<>]+)</text>", first))


@pytest.mark.parametrize(
    ("values", "at_least", "at_most", "verdict"),
    [
        ([0.1, 0.97, 0.98], 0.97, None, "met"),
        ([0.99, 0.96, 0.5], 0.97, None, "missed"),
        ([50.0], None, 50.0, "met"),
        ([51.0, 52.0, 3.0], None, 50.0, "missed"),
        ([1.0], None, None, ""),
    ],
)
def test_a_target_is_judged_by_the_median(
    values: list[float], at_least: float | None, at_most: float | None, verdict: str
) -> None:
    assert Figure("figure", values, at_least=at_least, at_most=at_most).verdict == verdict


def test_a_batch_counts_for_the_part_of_it_that_was_watched() -> None:
    engine = Watched(MockEngine(Script(lanes=2)))
    engine.batches += [Batch(0.0, 4.0, 8), Batch(2.0, 3.0, 3), Batch(5.0, 6.0, 1)]
    assert engine.busy(2.0, 4.0) == (2.0 + 1.0) / (2 * 2.0)  # of two lanes for two seconds
    assert engine.rate(2.0, 4.0) == (4 + 3) / 2.0


def test_a_backlog_begins_with_the_first_full_batch_unless_that_comes_late() -> None:
    engine = Watched(MockEngine(Script()))
    engine.batches += [Batch(0.0, 1.0, 2), Batch(1.0, 2.0, 8), Batch(2.0, 3.0, 8)]
    assert engine.filled(until=3.0) == 1.0
    assert engine.filled(until=1.5) == 0.0
