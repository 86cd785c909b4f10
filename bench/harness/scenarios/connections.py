"""Few connections and many."""

from .. import report
from ..case import Case
from ..gateway import with_calls
from ..languages import all_languages
from ..session import Session

COUNTS = (2, 4, 8, 32, 256)
CALLS = 1


def run(session: Session) -> report.Report:
    """For each number of connections nginx, the gateway without plugins, and with one in Go."""
    settings = session.settings
    yardstick = session.yardstick()
    plain = session.silverback("plain") if settings.wants("silverback") else None
    go = all_languages(1)[0]
    plugged = session.silverback("go", with_calls(go, [CALLS])) if settings.wants("go") else None
    groups = []
    for count in COUNTS:
        facts = {"connections": count}
        cases = [Case("nginx", f"nginx, {count} connections", yardstick, connections=count, facts=facts)]
        if plain:
            cases.append(Case("silverback", f"silverback, {count} connections", plain, connections=count, facts=facts))
        if plugged:
            cases.append(
                Case(
                    "go",
                    f"Go, n={CALLS}, {count} connections",
                    plugged,
                    f"/{CALLS}/",
                    calls=CALLS,
                    connections=count,
                    facts=facts,
                )
            )
        groups.append(session.measure(cases))
    return report.of_loads(groups)
