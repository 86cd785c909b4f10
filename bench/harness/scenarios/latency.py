"""What one more PDK call costs: the slope of the median latency over the number of calls, at one connection."""

from dataclasses import asdict

from .. import report, table
from ..anchors import KONG, KONG_CALL_MICROSECONDS
from ..case import Case, Outcome
from ..gateway import with_calls
from ..languages import all_languages
from ..load import Load
from ..session import Session
from ..stats import Spread, slope
from .calls import CALLS, case_of


def run(session: Session) -> report.Report:
    """All languages and all numbers of calls in the same rounds."""
    languages = [language for language in all_languages(1) if session.settings.wants(language.series)]
    cases = [Case("nginx", "nginx", session.yardstick(), connections=1)]
    plain = session.silverback("plain") if session.settings.wants("silverback") else None
    if plain:
        cases.append(Case("silverback", "silverback, no plugin", plain, connections=1))
    for language in languages:
        server = session.silverback(language.series, with_calls(language, CALLS))
        cases += [case_of(language, server, n, connections=1) for n in CALLS] if server else []

    def half_as_long(case: Case, seconds: float) -> Load:
        return session.wrk(case, seconds / 2)

    outcomes = session.measure(cases, half_as_long)
    labels = {"nginx": "nginx", "silverback": "silverback, no plugin"} | {
        language.series: language.label for language in languages
    }
    cells, rows = [], []
    for series, label in labels.items():
        mine = [outcome for outcome in outcomes if outcome.case.series == series]
        if mine:
            medians = {outcome.case.facts.get("n", 0): Spread.of(_microseconds(outcome)) for outcome in mine}
            each = _slopes(mine) if len(mine) > 1 else None
            kong = KONG_CALL_MICROSECONDS.get(series)
            cells.append(
                [
                    label,
                    *(table.number(medians[n].median) if n in medians else "" for n in CALLS),
                    table.number(each.median) if each else "",
                    table.span(each) if each else "",
                    "" if kong is None else table.number(kong),
                ]
            )
            rows.append(
                {
                    "series": series,
                    "label": label,
                    "p50_us": {n: asdict(spread) for n, spread in medians.items()},
                    "call_us": asdict(each) if each else None,
                    "kong": kong,
                }
            )
    text = table.render(
        ["p50 us with n calls", *(f"n={n}" for n in CALLS), "one more call", "min..max", "Kong *"], cells
    )
    return report.Report(f"{text}\n\nOne connection. One more call: the slope, least squares. * {KONG}.", rows)


def _microseconds(outcome: Outcome) -> list[float]:
    return [load.latency["50"] * 1000 for load in outcome.loads]


def _slopes(outcomes: list[Outcome]) -> Spread:
    """The slope within each round."""
    rounds = zip(*(_microseconds(outcome) for outcome in outcomes), strict=True)
    return Spread.of(
        [
            slope([(outcome.case.facts["n"], y) for outcome, y in zip(outcomes, latencies, strict=True)])
            for latencies in rounds
        ]
    )
