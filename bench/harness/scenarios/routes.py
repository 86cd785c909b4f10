"""Many routes: requests spread over 10,000 of them, beside the same requests through one."""

from .. import report
from ..case import Case
from ..gateway import NO_PLUGIN, with_routes
from ..session import Session

COUNT = 10_000


def run(session: Session) -> report.Report:
    """The requests are the same for all, so the generator's share is, too."""
    cases = [Case("nginx", "nginx, one location", session.yardstick(), "/route/1/", routes=COUNT, facts={"routes": 1})]
    for label, count, configuration in (
        ("one route", 1, NO_PLUGIN),
        (f"{COUNT + 1:,} routes", COUNT + 1, with_routes(COUNT)),
    ):
        server = session.silverback(f"routes-{count}", configuration)
        if server:
            cases.append(
                Case("silverback", f"silverback, {label}", server, "/route/1/", routes=COUNT, facts={"routes": count})
            )
    return report.of_loads([session.measure(cases)])
