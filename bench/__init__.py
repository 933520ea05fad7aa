"""What the design promises, measured: `python -m bench` lists the benchmarks and runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Report

RECORDINGS = Path(__file__).parent.parent / "tests" / "media"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """``run(quick)`` raises ``Unmeasured`` where there is nothing to say."""

    name: str
    measures: str
    target: str
    run: Callable[[bool], Report]


class Unmeasured(Exception):
    """The measurement did not come about: something it needs is missing, or a job of it failed."""
