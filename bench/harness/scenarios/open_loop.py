"""Latency at a fixed rate, which does not wait for the server: at fractions of what each case can do.

The latency counts from when a request was due, so that a server that stalls is not spared the requests it kept waiting
(coordinated omission). What a case can do is what it answers when more is asked for, by the same generator, which takes
its share of the machine.
"""

from .. import load, report, table
from ..anchors import GOAL_P99_MS_AT_HALF_LOAD
from ..case import Case, Outcome
from ..gateway import with_calls
from ..languages import all_languages
from ..session import Session
from .calls import case_of

FRACTIONS = (0.25, 0.5, 0.75, 0.9)
CALLS = 1
# What is asked for to find out what a case can do, of its rate in a closed loop.
OVERLOAD = 1.1
# A rate that is not reached is no fixed rate.
REACHED = 0.97


def run(session: Session) -> report.Report:
    """All cases at one fraction in the same rounds, from the lowest to the highest."""
    settings = session.settings
    cases = [Case("nginx", "nginx", session.yardstick())]
    plain = session.silverback("plain") if settings.wants("silverback") else None
    cases += [Case("silverback", "silverback, no plugin", plain)] if plain else []
    for language in all_languages(1):
        if settings.wants(language.series):
            server = session.silverback(language.series, with_calls(language, [CALLS]))
            cases += [case_of(language, server, CALLS)] if server else []

    flood: dict[str, float] = {}

    def flooded(case: Case, seconds: float) -> load.Load:
        if case.series not in flood:  # in the warm-up
            closed = load.oha(case.url, settings.connections, seconds, None)
            flood[case.series] = OVERLOAD * closed.rate
            return closed
        return load.oha(case.url, settings.connections, seconds, flood[case.series])

    saturated = {outcome.case.series: outcome.rate.median for outcome in session.measure(cases, flooded)}
    cells, rows = [], []
    for fraction in FRACTIONS:

        def at_rate(case: Case, seconds: float, fraction: float = fraction) -> load.Load:
            return load.oha(case.url, settings.connections, seconds, fraction * saturated[case.series])

        for outcome in session.measure([case for case in cases if case.series in saturated], at_rate):
            offered = fraction * saturated[outcome.case.series]
            cells.append(_row(outcome, fraction, offered))
            rows.append(
                outcome.as_json()
                | {"fraction": fraction, "offered": offered, "goal": _goal(outcome, fraction), "kong": []}
            )
    cells.sort(key=lambda cell: [case.label for case in cases].index(cell[0]))
    text = table.render(
        ["case", "of saturation", "offered/s", "answered/s", "p50 ms", "p99 ms", "min..max", "p99.9 ms", "goal p99 ms"],
        cells,
    )
    return report.Report(
        f"{text}\n\nOpen loop; the latency counts from when a request was due. (!): the rate was not reached.", rows
    )


def _goal(outcome: Outcome, fraction: float) -> float | None:
    return GOAL_P99_MS_AT_HALF_LOAD if fraction == 0.5 and outcome.case.series in ("silverback", "go") else None


def _row(outcome: Outcome, fraction: float, offered: float) -> list[str]:
    answered, p99, goal = outcome.rate.median, outcome.latency("99"), _goal(outcome, fraction)
    return [
        outcome.case.label,
        f"{fraction:.2f}",
        table.number(offered),
        table.number(answered) + ("" if answered >= REACHED * offered else " (!)"),
        table.number(outcome.latency("50").median),
        table.number(p99.median),
        table.span(p99),
        table.number(outcome.latency("99.9").median),
        table.at_most(p99.median, goal),
    ]
