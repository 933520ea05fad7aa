"""A benchmark's curves over the number of tracks, drawn as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Mapping[int, Sequence[float]]
"""Values of each repetition, by how many tracks."""

OURS: Final = "#1f5a93"
APART: Final = "#c2571a"
QUIET: Final = "#6b7280"


@dataclass(frozen=True, slots=True)
class Panel:
    """Both curves are multiples of what the mix of the same tracks takes."""

    title: str
    multitrack: Points
    apart: Points


def save(path: Path, panels: Sequence[Panel]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # Text stays text, and a drawing of the same figures stays the same file.
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem, "font.family": "sans-serif"}):
        figure, axes = pyplot.subplots(1, len(panels), figsize=(9, 3.8), sharey=True, layout="constrained")
        for panel, axis in zip(panels, axes, strict=True):
            _draw(panel, axis)
        axes[0].set_ylabel("times the downmix")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False)
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _draw(panel: Panel, axis: Axes) -> None:
    counts = list(panel.multitrack)
    axis.set_title(panel.title, loc="left", fontsize=11, fontweight="bold")
    _curve(axis, panel.apart, APART, "a job for each track")
    _curve(axis, panel.multitrack, OURS, "multitrack")
    axis.axhline(1, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), label="downmix")
    axis.set_xticks(counts)
    axis.set_xlabel("tracks")
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(length=0)


def _curve(axis: Axes, points: Points, colour: str, name: str) -> None:
    """The medians, with the spread of the repetitions behind them."""
    counts = list(points)
    middle = [median(points[count]) for count in counts]
    axis.fill_between(
        counts,
        [min(points[n]) for n in counts],
        [max(points[n]) for n in counts],
        color=colour,
        alpha=0.15,
        linewidth=0,
    )
    axis.plot(counts, middle, color=colour, linewidth=2, marker="o", markersize=5, clip_on=False, label=name)
