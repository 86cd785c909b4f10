"""The gateway without plugins beside its peers, over HTTP/1.1, by the size of the answer."""
from .. import report, servers
from ..anchors import GOAL_PLAIN, KONG_PLAIN
from ..case import Case
from ..session import Session

SIZES = {"/": "small", "/64k": "64 KB", "/1m": "1 MB"}


def run(session: Session) -> report.Report:
    """Measures every size with all proxies in the same rounds."""
    proxies = {name: session.peer(name, "plain") for name in servers.peers("plain") if name == "nginx" or session.settings.wants(name)}
    proxies["silverback"] = session.silverback("plain")
    groups = []
    for path, size in SIZES.items():
        cases = [
            Case(name, f"{name}, {size}", server, path, facts={"body": size},
                 goal=GOAL_PLAIN if name == "silverback" else None,
                 kong=KONG_PLAIN if name == "silverback" and path == "/" else ())
            for name, server in proxies.items() if server
        ]
        groups.append(session.measure(cases))
    return report.of_loads(groups)
