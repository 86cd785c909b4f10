"""The scenarios, in the order in which they run. Each is a function of a session that returns a `Report`."""

from collections.abc import Callable
from dataclasses import dataclass

from ..report import Report
from ..session import Session
from . import calls, connections, latency, memory, open_loop, plain, plugins, routes, start


@dataclass(frozen=True)
class Scenario:
    """A scenario by name."""

    name: str
    about: str
    run: Callable[[Session], Report]


ALL = [
    Scenario("plain", "no plugin, HTTP/1.1: bodies of 37 bytes, 64 KB and 1 MB", plain.http1),
    Scenario("http2", "no plugin, HTTP/2 in cleartext", plain.http2),
    Scenario("tls", "no plugin, HTTP/1.1 and HTTP/2 over TLS", plain.tls),
    Scenario(
        "calls", "a plugin with 0, 1, 8 and 32 PDK calls, by language, beside peers with their extensions", calls.run
    ),
    Scenario("latency", "what one more PDK call costs at one connection, by language", latency.run),
    Scenario("open", "latency at fixed rates, fractions of what each case can do", open_loop.run),
    Scenario("plugins", "1, 5 and 20 plugins on each request", plugins.run),
    Scenario("routes", "requests spread over 10,000 routes", routes.run),
    Scenario("connections", "2, 4, 8, 32 and 256 connections", connections.run),
    Scenario("memory", "at rest, and of 10,000 idle connections", memory.run),
    Scenario("start", "from the start of the process to the first answer", start.run),
]
