"""The gateway without plugins beside its peers: HTTP/1.1 by the size of the answer, HTTP/2, and TLS."""

from .. import load, report, servers
from ..anchors import GOAL_PLAIN, KONG_PLAIN
from ..case import Case, Outcome
from ..gateway import NO_PLUGIN, Gateway
from ..servers import Server
from ..session import Session

SIZES = {"/": "small", "/64k": "64 KB", "/1m": "1 MB"}
# Requests at a time on each HTTP/2 connection.
STREAMS = 4


def http1(session: Session) -> report.Report:
    """Every size, with all proxies in the same rounds."""
    proxies = _proxies(session, "plain", NO_PLUGIN)
    groups = []
    for path, size in SIZES.items():
        cases = [
            Case(
                name,
                f"{name}, {size}",
                server,
                path,
                facts={"body": size},
                goal=GOAL_PLAIN if name == "silverback" else None,
                kong=KONG_PLAIN if name == "silverback" and path == "/" else (),
            )
            for name, server in proxies.items()
        ]
        groups.append(session.measure(cases))
    return report.of_loads(groups)


def http2(session: Session) -> report.Report:
    """HTTP/2 in cleartext, with prior knowledge."""
    return report.of_loads([_http2(session, _proxies(session, "h2c", Gateway(http2=True)), tls=False)])


def tls(session: Session) -> report.Report:
    """HTTP/1.1 and HTTP/2 over TLS, on connections that stay open."""
    proxies = _proxies(session, "tls", Gateway(tls=True, http2=True))
    cases = [
        Case(
            name,
            f"{name}, HTTP/1.1 over TLS",
            server,
            tls=True,
            facts={"protocol": "HTTP/1.1 over TLS"},
            goal=GOAL_PLAIN if name == "silverback" else None,
        )
        for name, server in proxies.items()
    ]
    return report.of_loads([session.measure(cases), _http2(session, proxies, tls=True)])


def _proxies(session: Session, variant: str, configuration: Gateway) -> dict[str, Server]:
    """The yardstick first, then the gateway, then the other peers that have the variant."""
    proxies: dict[str, Server | None] = {"nginx": session.yardstick(variant)}
    if session.settings.wants("silverback"):
        proxies["silverback"] = session.silverback(f"silverback-{variant}", configuration)
    for name in servers.peers(variant):
        if name != "nginx" and session.settings.wants(name):
            proxies[name] = session.peer(name, variant)
    return {name: server for name, server in proxies.items() if server}


def _http2(session: Session, proxies: dict[str, Server], tls: bool) -> list[Outcome]:
    """All proxies over HTTP/2 in the same rounds."""
    protocol = "HTTP/2 over TLS" if tls else "HTTP/2"
    settings = session.settings

    def h2load(case: Case, seconds: float) -> load.Load:
        return load.h2load(
            case.url, settings.connections, STREAMS, seconds, settings.generator_threads, session.work / "h2load.log"
        )

    cases = [
        Case(
            name,
            f"{name}, {protocol}",
            server,
            tls=tls,
            http2=True,
            facts={"protocol": protocol},
            goal=GOAL_PLAIN if name == "silverback" else None,
        )
        for name, server in proxies.items()
    ]
    return session.measure(cases, h2load)
