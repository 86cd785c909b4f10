"""Draws the curves of a file of results, as SVG beside it. Runs by itself, with matplotlib: charts.py RESULTS [FORMAT]"""
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.ticker import FuncFormatter  # noqa: E402

Row = dict[str, Any]

# One colour for each way to run plugins; the figures of others are grey.
COLOURS = {"silverback": "#1b1b1b", "go": "#0b7a75", "js": "#c77d0a", "gevent": "#2f5fb3", "python": "#8c3b8f"}
PANELS = {"go": "Go (go-pdk)", "js": "JavaScript (kong-js-pdk)", "gevent": "Python, gevent (kong-python-pdk -g)", "python": "Python, threads (kong-python-pdk)"}


def main(file: Path, ending: str) -> None:
    """Draws every chart for which there are results."""
    plt.rcParams |= {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none", "axes.titlesize": 10,
                     "axes.titleweight": "bold", "legend.frameon": False}
    scenarios = json.loads(file.read_text())["scenarios"]
    charts: dict[str, tuple[str, Callable[[list[Row]], None]]] = {
        "calls-rate": ("calls", calls_rate),
        "calls-p99": ("calls", calls_p99),
    }
    for name, (scenario, draw) in charts.items():
        rows = scenarios.get(scenario, {}).get("rows")
        if rows:
            draw(rows)
            target = file.parent / f"{name}.{ending}"
            plt.savefig(target, bbox_inches="tight", dpi=110)
            plt.close()
            print(f"bench: {target}")


def calls_rate(rows: list[Row]) -> None:
    """Requests per second, as ratio to nginx, against the number of PDK calls."""
    axes = _panels("Requests per second, to nginx without a plugin (1 = as fast)")
    for axis, series in zip(axes, PANELS, strict=False):
        _line(axis, rows, series, "ratio", COLOURS[series], "one process")
        _line(axis, rows, f"{series}-workers", "ratio", COLOURS[series], "one for each core", "--")
        _anchors(axis, rows, series)
    _peers(axes[len(PANELS)], rows, "ratio")
    _finish(axes)


def calls_p99(rows: list[Row]) -> None:
    """The 99th percentile of the latency in a closed loop against the number of PDK calls."""
    axes = _panels("p99 in milliseconds, closed loop at saturation")
    for axis, series in zip(axes, PANELS, strict=False):
        _line(axis, rows, series, "p99_ms", COLOURS[series], "one process")
        _line(axis, rows, f"{series}-workers", "p99_ms", COLOURS[series], "one for each core", "--")
        _line(axis, rows, "nginx", "p99_ms", "#999999", "nginx, no plugin", ":")
    _peers(axes[len(PANELS)], rows, "p99_ms")
    _finish(axes)


def _panels(title: str) -> list[Axes]:
    """A panel for each language, and one for the peers."""
    figure, grid = plt.subplots(2, 3, figsize=(11, 6.4), sharey=True, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    axes = list(grid.flat)
    axes[-1].remove()
    for axis, name in zip(axes, [*PANELS.values(), "Peers, with their own extensions"], strict=False):
        axis.set_title(name, loc="left")
    return axes[:-1]


def _line(axis: Axes, rows: list[Row], series: str, figure: str, colour: str, label: str, style: str = "-") -> None:
    """Median against n, with the range of the rounds as a bar."""
    points = sorted((row["n"], row[figure]["median"], row[figure]["min"], row[figure]["max"]) for row in rows if row["series"] == series)
    if not points:
        return
    n, middle, low, high = zip(*points, strict=True)
    below = [m - x for m, x in zip(middle, low, strict=True)]
    above = [x - m for m, x in zip(middle, high, strict=True)]
    axis.errorbar(n, middle, yerr=[below, above], color=colour, linestyle=style, marker="o", markersize=4, capsize=2, linewidth=1.6, label=label)


def _anchors(axis: Axes, rows: list[Row], series: str) -> None:
    """Kong's figures, and the goal."""
    mine = sorted((row for row in rows if row["series"] == series), key=lambda row: row["n"])
    machines = max((len(row["kong"]) for row in mine), default=0)
    for machine in range(machines):
        points = [(row["n"], row["kong"][machine]) for row in mine if len(row["kong"]) > machine]
        axis.plot(*zip(*points, strict=True), color="#999999", marker="s", markersize=3, linewidth=1,
                  label="Kong 3.9.3, measured elsewhere" if machine == 0 else None)
    goals = [(row["n"], row["goal"]) for row in mine if row["goal"] is not None]
    if goals:
        axis.plot(*zip(*goals, strict=True), color="#c0392b", linestyle="none", marker="_", markersize=11, markeredgewidth=1.8, label="goal")


def _peers(axis: Axes, rows: list[Row], figure: str) -> None:
    """Every peer that has an extension, beside Go."""
    _line(axis, rows, "go", figure, COLOURS["go"], "silverback, Go")
    names = sorted({row["series"] for row in rows if row["series"].endswith("-extension")})
    for place, series in enumerate(names):
        grey = 0.15 + 0.55 * place / max(len(names), 1)
        _line(axis, rows, series, figure, str(grey), series.removesuffix("-extension"), ("-", "--", ":", "-.")[place % 4])


def _finish(axes: list[Axes]) -> None:
    for axis in axes:
        axis.set_yscale("log")
        axis.set_xscale("symlog", base=2, linthresh=1)
        axis.set_xlim(-0.4, 45)
        axis.set_xticks([0, 1, 8, 32], ["0", "1", "8", "32"])
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_xlabel("PDK calls before one set_header")
        axis.grid(axis="y", which="major", color="#dddddd", linewidth=0.8)
        axis.grid(axis="y", which="minor", color="#f1f1f1", linewidth=0.5)
        axis.tick_params(labelleft=True)
        if axis.has_data():
            axis.legend(fontsize=8, loc="best")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "svg")
