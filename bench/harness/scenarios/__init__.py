"""The scenarios, in the order in which they run. Each is a module with a `run(session)` that prints nothing and returns a `Report`."""
from collections.abc import Callable
from dataclasses import dataclass

from ..report import Report
from ..session import Session
from . import calls, plain


@dataclass(frozen=True)
class Scenario:
    """A scenario by name."""

    name: str
    about: str
    run: Callable[[Session], Report]


ALL = [
    Scenario("plain", "no plugin: bodies of 37 bytes, 64 KB and 1 MB over HTTP/1.1", plain.run),
    Scenario("calls", "a plugin with 0, 1, 8 and 32 PDK calls, by language, beside peers with their extensions", calls.run),
]
