"""Whatever falls, every job ends once: the benchmark of faults, as a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import faults
from bench.figures import Report

pytestmark = pytest.mark.postgres


def missed(report: Report) -> list[str]:
    return [" ".join(figure.row()) for figure in report.figures if figure.verdict == "missed"]


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.full)], ids=["few", "many"])
def test_jobs_end_once_whatever_is_killed_held_still_or_cut_off(tmp_path: Path, quick: bool) -> None:
    assert missed(faults.measure(tmp_path, faults.planned(quick=quick))) == []
