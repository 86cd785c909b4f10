"""Many plugins on each request: each of them one PDK call and one set_header."""

import os
from pathlib import Path

from .. import report
from ..case import Case
from ..gateway import Gateway
from ..languages import GO_PLUGIN, PLUGINS, PluginServer, go, javascript
from ..session import Session

COUNTS = (1, 5, 20)


def run(session: Session) -> report.Report:
    """Go: a server for each plugin, as go-pdk has it. JavaScript: one server for all."""
    settings = session.settings
    cases = [Case("nginx", "nginx", session.yardstick(), facts={"plugins": 0})]
    makers = {"go": ("Go", _go_servers), "js": ("JavaScript", _javascript_server)}
    for series, (label, make) in makers.items():
        for count in COUNTS if settings.wants(series) else ():
            plugin_servers = make(session.directory(f"plugins-{series}"), count)
            plugins = [{"name": name, "config": {"calls": 1}} for server in plugin_servers for name in server.plugins]
            server = session.silverback(f"{series}-{count}", Gateway(plugins=plugins, plugin_servers=plugin_servers))
            if server:
                name = f"{label}, plugins: {count}, servers: {len(plugin_servers)}"
                cases.append(Case(series, name, server, calls=1, facts={"plugins": count}))
    return report.of_loads([session.measure(cases)])


def _go_servers(directory: Path, count: int) -> list[PluginServer]:
    """The same executable under several names, by which go-pdk calls the plugin."""
    executables = [directory / f"bench-go-{number:02}" for number in range(count)]
    for executable in executables:
        executable.write_bytes(GO_PLUGIN.read_bytes())
        os.chmod(executable, 0o755)
    return [go(executable) for executable in executables]


def _javascript_server(directory: Path, count: int) -> list[PluginServer]:
    """A directory of plugins that are the same but for their names."""
    for number in range(count):
        name = f"bench-js-{number:02}"
        (directory / f"{name}.js").write_text(
            f"module.exports = {{ ...require('{PLUGINS}/node/bench-js.js'), Name: '{name}' }}\n"
        )
    return [javascript(directory=directory)]
