"""How the gateway is configured for a scenario."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .languages import Language, PluginServer

ALL_PATHS = {"name": "origin", "paths": ["/"]}


@dataclass(frozen=True)
class Gateway:
    """One service, the upstream of the bench, with routes and plugins in the words of the declarative configuration."""

    routes: list[dict[str, Any]] = field(default_factory=lambda: [ALL_PATHS])
    plugins: list[dict[str, Any]] = field(default_factory=list)  # that hold for all requests
    plugin_servers: list[PluginServer] = field(default_factory=list)
    tls: bool = False
    http2: bool = False


NO_PLUGIN = Gateway()


def with_calls(language: Language, calls: Sequence[int]) -> Gateway:
    """Requests to /n/ run the language's plugin with n PDK calls; all others none."""
    routes = [
        {
            "name": f"calls-{n}",
            "paths": [f"/{n}/"],
            "strip_path": False,
            "plugins": [{"name": plugin, "config": {"calls": n}} for plugin in language.server.plugins],
        }
        for n in calls
    ]
    return Gateway([*routes, ALL_PATHS], plugin_servers=[language.server])


def with_routes(count: int) -> Gateway:
    """As many routes more: /route/1/, /route/2/, ..."""
    return Gateway(
        [
            ALL_PATHS,
            *({"name": f"route-{n}", "paths": [f"/route/{n}/"], "strip_path": False} for n in range(1, count + 1)),
        ]
    )
