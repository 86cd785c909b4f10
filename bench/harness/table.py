"""Tables for people."""

from collections.abc import Sequence

from .anchors import KONG
from .case import Outcome
from .stats import Spread

LOAD_COLUMNS = [
    "case",
    "requests/s",
    "min..max",
    "to nginx",
    "min..max",
    "goal",
    "Kong *",
    "p50 ms",
    "p99 ms",
    "CPU us",
    "ext. CPU us",
    "MB",
    "ext. MB",
]
LOAD_NOTES = f"""\
to nginx: the median of the ratios within the rounds. CPU us: what the proxy itself used for each request; ext.: its
plugin servers or agents. MB: resident at most. * {KONG}, to nginx there."""


def render(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be, the first to the left, the others to the right; none in which nothing stands."""
    used = [place for place in range(len(columns)) if any(row[place] for row in rows)]
    columns, rows = [columns[place] for place in used], [[row[place] for place in used] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
    lines = [columns, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def load_row(outcome: Outcome) -> list[str]:
    """The row of a case, for LOAD_COLUMNS."""
    case = outcome.case
    extended = any(usage.extension_memory for usage in outcome.usages)
    return [
        case.label,
        number(outcome.rate.median),
        span(outcome.rate),
        number(outcome.ratio.median),
        span(outcome.ratio),
        at_least(outcome.ratio.median, case.goal),
        " ".join(number(kong) for kong in case.kong),
        number(outcome.latency("50").median),
        number(outcome.latency("99").median),
        number(outcome.own_cpu.median),
        number(outcome.extension_cpu.median) if extended else "",
        number(outcome.own_memory.median),
        number(outcome.extension_memory.median) if extended else "",
    ]


def loads(outcomes: Sequence[Outcome]) -> str:
    """The table of cases under load."""
    return render(LOAD_COLUMNS, [load_row(outcome) for outcome in outcomes])


def span(spread: Spread) -> str:
    """From the lowest to the highest."""
    return f"{number(spread.min)}..{number(spread.max)}"


def at_least(value: float, goal: float | None) -> str:
    """A goal that figures should reach, and whether this one does; nothing without a goal."""
    return "" if goal is None else f"{number(goal)} {'met' if value >= goal else 'missed'}"


def at_most(value: float, goal: float | None) -> str:
    """A goal that figures should stay below, and whether this one does; nothing without a goal."""
    return "" if goal is None else f"{number(goal)} {'met' if value <= goal else 'missed'}"


def number(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    if abs(value) >= 1:
        return f"{value:.2f}"
    return f"{value:.3g}"
