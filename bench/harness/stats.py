"""Figures from rounds: medians, ranges, ratios within rounds, slopes."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median


@dataclass(frozen=True)
class Spread:
    """What several rounds gave for one figure."""

    median: float
    min: float
    max: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
        return Spread(median(values), min(values), max(values))


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Each value to the base of its own round, so that what slows a whole round down cancels out."""
    return [value / yardstick for value, yardstick in zip(values, base, strict=True)]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that `percent` of them do not exceed (nearest rank). The values must be sorted."""
    rank = -(-len(values) * percent // 100)
    return values[max(int(rank), 1) - 1]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """How much y grows for each x: least squares over at least two different x."""
    centre_x, centre_y = fmean(x for x, _ in points), fmean(y for _, y in points)
    return sum((x - centre_x) * (y - centre_y) for x, y in points) / sum((x - centre_x) ** 2 for x, _ in points)
