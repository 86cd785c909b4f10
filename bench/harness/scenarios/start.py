"""From the start of the process to the first answer."""

import http.client
import time
from dataclasses import asdict

from .. import report, servers, table
from ..gateway import NO_PLUGIN, with_calls, with_routes
from ..languages import all_languages
from ..servers import Server
from ..session import START_WITHIN, Session
from ..stats import Spread
from .routes import COUNT

# It varies more than rates do, and takes less time.
STARTS_PER_ROUND = 3
CALLS = 1


def run(session: Session) -> report.Report:
    """Each start in a directory of its own, in rounds. Files are in the kernel's cache; no process is there before."""
    settings = session.settings
    gateways = {
        "silverback": ("silverback, no plugin", "/", NO_PLUGIN),
        "silverback-routes": (f"silverback, {COUNT + 1:,} routes", "/", with_routes(COUNT)),
    }
    for language in all_languages(1):
        gateways[language.series] = (language.label, f"/{CALLS}/", with_calls(language, [CALLS]))
    gateways = {series: what for series, what in gateways.items() if settings.wants(series)}
    peers = [name for name in servers.peers("plain") if name == "nginx" or settings.wants(name)]
    taken: dict[str, list[float]] = {}
    for _ in range(settings.rounds * STARTS_PER_ROUND):
        for name in peers:
            _start(session, session.prepare_peer(name, "plain"), "/", name, taken)
        for _series, (label, path, configuration) in gateways.items():
            _start(session, session.prepare_silverback("start", configuration), path, label, taken)
    spreads = {label: Spread.of(milliseconds) for label, milliseconds in taken.items()}
    cells = [[label, table.number(spread.median), table.span(spread)] for label, spread in spreads.items()]
    rows = [{"label": label, "first_answer_ms": asdict(spread)} for label, spread in spreads.items()]
    return report.Report(table.render(["case", "ms to the first answer", "min..max"], cells), rows)


def _start(session: Session, server: Server, path: str, label: str, taken: dict[str, list[float]]) -> None:
    """Starts a server, asks until it answers with 200, notes the time and stops it."""
    begin = time.monotonic()
    server.start()
    try:
        while not _answers(server.port, path):
            if server.has_ended() or time.monotonic() - begin > START_WITHIN:
                session.problem(f"{label} did not start:\n{server.last_words()}")
                return
            time.sleep(0.001)
        taken.setdefault(label, []).append((time.monotonic() - begin) * 1000)
    finally:
        server.stop()


def _answers(port: int, path: str) -> bool:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=START_WITHIN)
    try:
        client.request("GET", path, headers={"User-Agent": "bench"})
        return client.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        client.close()
