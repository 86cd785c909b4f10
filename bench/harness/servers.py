"""The servers of the bench: the upstream, the gateway with its plugin servers, and its peers.

A server has a scratch directory, a port on 127.0.0.1 and a process, from which all that belongs to it descends.
"""

import json
import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import processes
from .languages import PluginServer
from .settings import PEERS, Settings

BODIES = {"/": b"hello from the upstream of the bench\n", "/64k": b"x" * 65536, "/1m": b"x" * 1048576}
ENVIRONMENT = os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin"}


class ServerError(Exception):
    """A server did not start, or ended by itself."""


class Ports:
    """Hands out ports of 127.0.0.1 on which nobody listens."""

    def __init__(self, first: int) -> None:
        self._next = first

    def take(self) -> int:
        """A port that is free now and is given to nobody else."""
        while self._next < 65536:
            port = self._next
            self._next += 1
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port
        raise ServerError("there is no free port left: choose a lower --port")


@dataclass
class Server:
    """A server that is started by one command and answers on one port."""

    name: str
    work: Path
    port: int
    command: list[str]
    program: str  # what the name of the proxy's own processes begins with; others in the tree are its extensions
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process, which ends when the bench does, however that ends; that it answers is yet to be seen."""
        command = ["setpriv", "--pdeathsig", "TERM", "--", *self.command]
        with (self.work / "output").open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=self.work,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Ends it with all that it started."""
        if self.process is not None:
            processes.stop(self.process)

    def has_ended(self) -> bool:
        """Whether the process, that should run until it is stopped, does not."""
        return self.process is None or self.process.poll() is not None

    def pids(self) -> tuple[list[int], list[int]]:
        """The processes of the proxy itself, and those of its extensions."""
        if self.process is None:
            return [], []
        own, extensions = [], []
        for pid in processes.tree(self.process.pid):
            if processes.command(pid).startswith(self.program):
                own.append(pid)
            elif pid != self.process.pid:  # not the script that started a peer
                extensions.append(pid)
        return own, extensions

    def last_words(self) -> str:
        """The end of what it printed and logged."""
        files = [self.work / "output", self.work / "logs/error.log"]
        lines = [
            line for file in files if file.exists() for line in file.read_text(errors="replace").splitlines()[-12:]
        ]
        return "\n".join(lines)


def upstream(work: Path, port: int) -> Server:
    """The one upstream of all: nginx with one worker, answering from memory and from files in the kernel's cache."""
    for path, body in BODIES.items():
        if path != "/":
            (work / path[1:]).write_bytes(body)
    (work / "logs").mkdir()
    (work / "nginx.conf").write_text(f"""
daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
worker_rlimit_nofile 20000;
pid nginx.pid;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    sendfile on;
    tcp_nopush on;
    default_type text/plain;
    open_file_cache max=16 inactive=1h;
    server {{
        listen 127.0.0.1:{port} reuseport backlog=4096;
        location / {{ return 200 "{BODIES["/"].decode().strip()}\\n"; }}
        location = /64k {{ root {work}; }}
        location = /1m {{ root {work}; }}
    }}
}}
""")
    return Server(
        "upstream", work, port, ["nginx", "-p", str(work), "-c", "nginx.conf", "-e", "logs/error.log"], "nginx"
    )


def peer(name: str, work: Path, port: int, upstream_port: int, workers: int, variant: str) -> Server:
    """Another proxy, as bench/peers/NAME/run starts it."""
    command = [str(PEERS / name / "run"), str(work), str(port), str(upstream_port), str(workers), variant]
    return Server(f"{name} {variant}", work, port, command, name)


def peers(variant: str) -> list[str]:
    """The peers that have a variant (`calls` for calls=N); nginx, the yardstick, is the first."""
    found = []
    for run in PEERS.glob("*/run"):
        variants = subprocess.run([run, "--variants"], capture_output=True, text=True, check=True).stdout.split()
        if variant in variants:
            found.append(run.parent.name)
    return sorted(found, key=lambda name: (name != "nginx", name))


def silverback(
    settings: Settings,
    work: Path,
    port: int,
    config: dict[str, Any],
    plugin_servers: list[PluginServer],
    listen: str = "reuseport backlog=4096",
) -> Server:
    """The gateway in the foreground, with its defaults but for where it listens and limits of requests."""
    (work / "kong.json").write_text(json.dumps({"_format_version": "3.0"} | config))
    lines = [
        f"prefix = {work}",
        "nginx_daemon = off",
        "database = off",
        f"declarative_config = {work}/kong.json",
        f"proxy_listen = 127.0.0.1:{port} {listen}",
        "admin_listen = off",
        "status_listen = off",
        "nginx_http_keepalive_requests = 1000000000",
        "upstream_keepalive_max_requests = 0",
        f"nginx_worker_processes = {settings.workers}",
    ]
    if "ssl" in listen.split():
        lines += [f"ssl_cert = {work}/cert.pem", f"ssl_cert_key = {work}/key.pem"]
    if plugin_servers:
        lines.append("plugins = bundled," + ",".join(name for server in plugin_servers for name in server.plugins))
        lines.append("pluginserver_names = " + ",".join(server.name for server in plugin_servers))
    for server in plugin_servers:
        lines += [
            f"pluginserver_{server.property_name}_{key} = {value}" for key, value in server.properties(work).items()
        ]
    (work / "kong.conf").write_text("\n".join(lines) + "\n")
    return Server(
        "silverback",
        work,
        port,
        [str(settings.silverback), "start", "-c", str(work / "kong.conf")],
        settings.silverback.name[:15],
    )
