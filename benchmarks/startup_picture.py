"""The starts as a picture: a row a process, a colour a phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from startup_timeline import API, ENGINE, Bar

_ROWS = (API, ENGINE)
_NAMED_FROM_S = 0.15  # shorter bars have no room for their seconds


def draw(starts: Mapping[str, Sequence[Bar]], ready_s: Mapping[str, float], limit_s: float, path: Path) -> None:
    """One chart for each of ``starts``, all on one scale; ``ready_s``: the first 200 of /health."""
    names = list(dict.fromkeys(bar.name for bars in starts.values() for bar in bars))
    colours = dict(zip(names, mpl.color_sequences["tab20"], strict=False))
    figure = Figure(figsize=(10, 1.3 * len(starts) + 1.3), layout="constrained")
    charts = figure.subplots(len(starts), 1, sharex=True, squeeze=False)[:, 0]
    for chart, (title, bars) in zip(charts, starts.items(), strict=True):
        for bar in bars:
            row = _ROWS.index(bar.process)
            chart.barh(row, bar.seconds, left=bar.start_s, color=colours[bar.name], edgecolor="white", linewidth=0.5)
            if bar.seconds >= _NAMED_FROM_S:
                chart.text(bar.start_s + bar.seconds / 2, row, f"{bar.seconds:.2f}", ha="center", va="center", fontsize=7)
        chart.axvline(ready_s[title], color="black", linewidth=1.5)
        chart.axvline(limit_s, color="red", linewidth=0.8, linestyle="--")
        chart.set_yticks(range(len(_ROWS)), _ROWS)
        chart.invert_yaxis()
        chart.set_title(f"{title}: ready after {ready_s[title]:.2f} s", fontsize=9, loc="left")
    charts[-1].set_xlabel(f"seconds from the start of the process; black: the first 200 of /health, red: {limit_s:g} s")
    figure.legend(handles=[Patch(color=colours[name], label=name) for name in names], loc="outside lower center", ncols=4, fontsize=7)
    figure.savefig(path, dpi=110)
