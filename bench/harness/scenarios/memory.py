"""Memory: at rest, and of 10,000 idle connections."""

import subprocess
import sys
import time
from typing import Any

from .. import processes, report, servers, table
from ..anchors import GOAL_MEMORY_AT_REST_MB
from ..gateway import NO_PLUGIN, Gateway
from ..servers import Server, ServerError
from ..session import Session
from ..settings import BENCH

CONNECTIONS = 10_000
QUICK_CONNECTIONS = 2_000
# A server that has just started still gives memory back.
REST = 3.0
# What the peers call it, and how the gateway is configured for it.
KINDS = {
    "http1": ("plain", NO_PLUGIN),
    "tls": ("tls", Gateway(tls=True, http2=True)),
    "http2": ("h2c", Gateway(http2=True)),
    "tls-http2": ("tls", Gateway(tls=True, http2=True)),
}


def run(session: Session) -> report.Report:
    """All at rest; the gateway and the yardstick with idle connections, each kind on a server of its own."""
    rest, rest_rows = _at_rest(session)
    idle, idle_rows = _idle(session)
    notes = "MB resident; PSS counts memory that processes share once. The servers have answered one request."
    return report.Report(f"{rest}\n\n{idle}\n\n{notes}", rest_rows + idle_rows)


def _at_rest(session: Session) -> tuple[str, list[dict[str, Any]]]:
    proxies = {
        name: session.peer(name, "plain")
        for name in servers.peers("plain")
        if session.settings.wants(name) or name == "nginx"
    }
    if session.settings.wants("silverback"):
        proxies["silverback"] = session.silverback("rest")
    time.sleep(REST)
    cells, rows = [], []
    for name, server in proxies.items():
        if server:
            pids, _ = server.pids()
            resident, shared = (processes.memory(pids, kind) / 1e6 for kind in ("VmRSS", "Pss"))
            goal = GOAL_MEMORY_AT_REST_MB if name == "silverback" else None
            cells.append([name, table.number(resident), table.number(shared), table.at_most(resident, goal)])
            rows.append({"series": name, "state": "at rest", "resident_mb": resident, "pss_mb": shared, "goal": goal})
    return table.render(["at rest", "MB", "PSS MB", "goal MB"], cells), rows


def _idle(session: Session) -> tuple[str, list[dict[str, Any]]]:
    count = CONNECTIONS if session.settings.thorough else QUICK_CONNECTIONS
    cells, rows = [], []
    for kind, (variant, configuration) in KINDS.items():
        proxies = {"nginx": session.peer("nginx", variant)}
        if session.settings.wants("silverback"):
            proxies["silverback"] = session.silverback(f"idle-{kind}", configuration)
        for name, server in proxies.items():
            if server:
                before, after, opened = _hold(server, kind, count)
                if opened != count:
                    session.problem(f"{name}: only {opened} of {count} idle {kind} connections stayed open")
                each = (after - before) / count
                cells.append(
                    [
                        f"{name}, {opened} {kind}",
                        table.number(each / 1024),
                        table.number(before / 1e6),
                        table.number(after / 1e6),
                    ]
                )
                rows.append(
                    {
                        "series": name,
                        "state": "idle connections",
                        "kind": kind,
                        "connections": opened,
                        "bytes_each": each,
                        "mb_for_10000": each * 10_000 / 1e6,
                        "resident_mb": after / 1e6,
                    }
                )
    return table.render(["idle connections", "KiB each", "MB with one", "MB with all"], cells), rows


def _hold(server: Server, kind: str, count: int) -> tuple[int, int, int]:
    """Resident bytes with one connection and with all, and how many of them were open at the end."""
    clients = subprocess.Popen(
        [sys.executable, "-m", "harness.idle_clients", kind, str(server.port), str(count)],
        cwd=BENCH,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert clients.stdin and clients.stdout and clients.stderr
        measured = []
        for _ in range(2):
            said = clients.stdout.readline().strip()
            if not said:
                raise ServerError(f"{server.name}: idle {kind} connections failed:\n{clients.stderr.read()}")
            pids, _extensions = server.pids()
            measured.append(processes.memory(pids, "VmRSS"))
            clients.stdin.write("\n")
            clients.stdin.flush()
        return measured[0], measured[1], int(said)
    finally:
        clients.kill()
        clients.wait()
