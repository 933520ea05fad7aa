"""What was measured: figures beside their targets, printed as a table and kept as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

from bench.machine import Machine

RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity, with a value for each repetition. Its target, if there is one, is judged by their median."""

    name: str
    values: Sequence[float]
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:g}" if self.at_most is not None else ""

    @property
    def verdict(self) -> str:
        if not self.target:
            return ""
        middle = median(self.values)
        low = self.at_least is not None and middle < self.at_least
        high = self.at_most is not None and middle > self.at_most
        return "missed" if low or high else "met"

    def row(self) -> tuple[str, ...]:
        spread = f"{_short(min(self.values))} … {_short(max(self.values))}" if len(self.values) > 1 else ""
        return self.name, _short(median(self.values)), self.unit, spread, self.target, self.verdict


@dataclass(frozen=True, slots=True)
class Report:
    """A benchmark's outcome. ``settings`` is what the figures depend on, by name."""

    name: str
    settings: Mapping[str, str]
    figures: Sequence[Figure]

    def __str__(self) -> str:
        settings = [f"  {name}: {value}" for name, value in self.settings.items()]
        rows = [("", "median", "", "spread", "target", ""), *map(Figure.row, self.figures)]
        return "\n".join([*settings, "", *table(rows)])

    def save(self, machine: Machine) -> Path:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}-{machine.time.replace(':', '')}.json"
        figures = [asdict(figure) | {"verdict": figure.verdict} for figure in self.figures]
        told = {"name": self.name, "machine": asdict(machine), "settings": dict(self.settings), "figures": figures}
        path.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        return path


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The rows in columns, each as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()


def _short(value: float) -> str:
    """Three or four digits, which is more than a shared machine repeats."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
