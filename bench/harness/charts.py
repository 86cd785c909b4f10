"""Draws the curves of a file of results, as SVG beside it: charts.py RESULTS [FORMAT]. All that needs matplotlib."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator  # noqa: E402

Row = dict[str, Any]

# One colour for each way to run plugins, and for each peer.
COLOURS = {
    "nginx": "#8a8a8a",
    "silverback": "#1b1b1b",
    "go": "#0b7a75",
    "js": "#c77d0a",
    "gevent": "#2f5fb3",
    "python": "#8c3b8f",
}
LANGUAGES = {
    "go": "Go (go-pdk)",
    "js": "JavaScript (kong-js-pdk)",
    "gevent": "Python, gevent (kong-python-pdk -g)",
    "python": "Python, threads (kong-python-pdk)",
}
NAMES = {"nginx": "nginx", "silverback": "no plugin"} | LANGUAGES
PEERS = {"nginx": "#8a8a8a", "haproxy": "#2f5fb3", "envoy": "#8c3b8f", "traefik": "#c77d0a"}
OTHERS, GOAL = "#8a8a8a", "#c0392b"


def main(file: Path, ending: str) -> None:
    """Draws every chart for which there are results."""
    plt.rcParams |= {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.fonttype": "none",
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "legend.fontsize": 8,
    }
    scenarios = json.loads(file.read_text())["scenarios"]
    charts: dict[str, tuple[str, Callable[[list[Row]], None]]] = {
        "calls-rate": ("calls", calls_rate),
        "calls-p99": ("calls", calls_p99),
        "open-latency": ("open", open_latency),
        "connections": ("connections", connections),
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
    axes = _by_language(rows, "ratio", "Requests per second, as ratio to nginx without an extension")
    for axis, series in zip(axes, _measured(rows), strict=False):
        _anchors(axis, rows, series)
    _finish_calls(axes)


def calls_p99(rows: list[Row]) -> None:
    """The 99th percentile of the latency in a closed loop against the number of PDK calls."""
    axes = _by_language(rows, "p99_ms", "99th percentile of the latency in milliseconds, closed loop at saturation")
    for axis in axes:
        _line(axis, rows, "nginx", "n", "p99_ms", OTHERS, "nginx, no extension", ":")
    _finish_calls(axes)


def open_latency(rows: list[Row]) -> None:
    """Percentiles of the latency against the offered load, a panel for each case."""
    present = [series for series in NAMES if any(row["series"] == series for row in rows)]
    axes = _panels(
        "Latency at fixed rates in milliseconds, from when a request was due", [NAMES[series] for series in present]
    )
    for axis, series in zip(axes, present, strict=True):
        for percentile, style in (("99.9", ":"), ("99", "-"), ("50", "--")):
            _line(axis, rows, series, "fraction", f"p{percentile}_ms", COLOURS[series], f"p{percentile}", style)
        goals = [(row["fraction"], row["goal"]) for row in rows if row["series"] == series and row["goal"] is not None]
        _goals(axis, goals, "goal for p99")
        axis.set_xlabel("offered load, of what the case can do")
        axis.set_xticks([0.25, 0.5, 0.75, 0.9])
    _finish(axes)


def connections(rows: list[Row]) -> None:
    """Requests per second, as ratio to nginx with as many connections."""
    axes = _panels("Few connections and many", ["Requests per second, as ratio to nginx", "p99 in milliseconds"])
    for axis, figure in zip(axes, ("ratio", "p99_ms"), strict=True):
        for series, label in (
            ("nginx", "nginx"),
            ("silverback", "silverback, no plugin"),
            ("go", "silverback, Go with one call"),
        ):
            _line(axis, rows, series, "connections", figure, COLOURS[series], label)
        axis.set_xscale("log", base=2)
        counts = sorted({row["connections"] for row in rows})
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("connections")
    _finish(axes)


def _measured(rows: list[Row]) -> list[str]:
    """The languages for which there are figures."""
    return [series for series in LANGUAGES if any(row["series"] == series for row in rows)]


def _by_language(rows: list[Row], figure: str, title: str) -> list[Axes]:
    """A panel for each language with one process and with as many as there are cores, and one for the peers."""
    measured = _measured(rows)
    axes = _panels(title, [*(LANGUAGES[series] for series in measured), "Peers, each with its own extension"])
    for axis, series in zip(axes, measured, strict=False):
        _line(axis, rows, series, "n", figure, COLOURS[series], "one process")
        _line(axis, rows, f"{series}-workers", "n", figure, COLOURS[series], "a process for each core", "--")
    _line(axes[-1], rows, "go", "n", figure, COLOURS["go"], "silverback, Go")
    for peer, colour in PEERS.items():
        _line(axes[-1], rows, f"{peer}-extension", "n", figure, colour, peer)
    return axes


def _panels(title: str, titles: Sequence[str]) -> list[Axes]:
    """As many panels as there are titles, three in a row, all with the same y."""
    columns = min(len(titles), 3)
    rows = -(-len(titles) // columns)
    same = "all" if rows > 1 or columns == 3 else "none"
    figure, grid = plt.subplots(
        rows, columns, figsize=(3.8 * columns, 3.2 * rows), sharey=same, layout="constrained", squeeze=False
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    axes = list(grid.flat)
    for axis in axes[len(titles) :]:
        axis.remove()
    for axis, panel in zip(axes, titles, strict=False):
        axis.set_title(panel)
    return axes[: len(titles)]


def _line(
    axis: Axes, rows: list[Row], series: str, x: str, figure: str, colour: str, label: str, style: str = "-"
) -> None:
    """Medians, with the range of the rounds as bars."""
    points = sorted(
        (row[x], row[figure]["median"], row[figure]["min"], row[figure]["max"])
        for row in rows
        if row["series"] == series
    )
    if points:
        places, middle, low, high = zip(*points, strict=True)
        bars = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
        axis.errorbar(
            places,
            middle,
            yerr=bars,
            color=colour,
            linestyle=style,
            marker="o",
            markersize=3.5,
            capsize=2,
            elinewidth=0.8,
            linewidth=1.6,
            label=label,
        )


def _anchors(axis: Axes, rows: list[Row], series: str) -> None:
    """Kong's figures, a line for each machine, and the goals."""
    mine = sorted((row for row in rows if row["series"] == series), key=lambda row: row["n"])
    for machine in range(max((len(row["kong"]) for row in mine), default=0)):
        points = [(row["n"], row["kong"][machine]) for row in mine if len(row["kong"]) > machine]
        axis.plot(
            *zip(*points, strict=True),
            color=OTHERS,
            marker="s",
            markersize=3,
            linewidth=1,
            label="Kong 3.9.3, measured elsewhere" if machine == 0 else None,
        )
    _goals(axis, [(row["n"], row["goal"]) for row in mine if row["goal"] is not None], "goal")


def _goals(axis: Axes, points: list[tuple[float, float]], label: str) -> None:
    if points:
        axis.plot(
            *zip(*points, strict=True),
            color=GOAL,
            linestyle="none",
            marker="_",
            markersize=12,
            markeredgewidth=2,
            label=label,
        )


def _finish_calls(axes: list[Axes]) -> None:
    for axis in axes:
        axis.set_xscale("symlog", base=2, linthresh=1)
        axis.set_xlim(-0.3, 44)
        axis.set_xticks([0, 1, 8, 32], ["0", "1", "8", "32"])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("PDK calls before one set_header")
    _finish(axes)


def _finish(axes: list[Axes]) -> None:
    for axis in axes:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.grid(axis="y", color="#e2e2e2", linewidth=0.7)
        axis.tick_params(labelleft=True)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="best")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "svg")
