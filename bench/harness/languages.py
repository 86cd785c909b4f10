"""The plugin servers of the bench: the plugin in bench/plugins in each language, in the stock server of its PDK."""

from dataclasses import dataclass
from pathlib import Path

from .settings import BENCH, PROJECT, TOOLS

PLUGINS = BENCH / "plugins"
PYTHON = TOOLS / "venv/bin/python"
NODE_SERVER = PROJECT / "examples/node/node_modules/.bin/kong-js-pluginserver"
GO_PLUGIN = TOOLS / "bin/bench-go"


@dataclass(frozen=True)
class PluginServer:
    """A plugin server as kong.conf names it. In the commands {prefix} stands for the gateway's prefix."""

    name: str
    plugins: tuple[str, ...]
    start: str
    query: str
    workers: int = 1

    @property
    def property_name(self) -> str:
        """The name as it is written within the names of properties."""
        return self.name.replace("-", "_")

    def properties(self, prefix: Path) -> dict[str, str]:
        """Its pluginserver_NAME_* properties for a gateway with that prefix."""
        return {
            "socket": f"{prefix}/{self.name}.socket",
            "start_cmd": self.start.format(prefix=prefix),
            "query_cmd": self.query.format(prefix=prefix),
            "workers": str(self.workers),
        }


@dataclass(frozen=True)
class Language:
    """A language with its PDK, and how its server is run."""

    series: str
    label: str
    server: PluginServer


def go(executable: Path = GO_PLUGIN) -> PluginServer:
    """A plugin built with go-pdk, which is its own server; executable and plugin share the name."""
    name = executable.name
    return PluginServer(name, (name,), f"{executable} -kong-prefix {{prefix}}", f"{executable} -dump")


def javascript(workers: int = 1, directory: Path = PLUGINS / "node") -> PluginServer:
    """kong-js-pluginserver with the plugins of a directory."""
    command = f"{NODE_SERVER} --plugins-directory {directory}"
    plugins = tuple(sorted(file.stem for file in directory.glob("*.js")))
    return PluginServer(
        "bench-js",
        plugins,
        f"{command} --kong-prefix {{prefix}} --sock-name bench-js.socket",
        f"{command} --dump-all-plugins",
        workers,
    )


def python(workers: int = 1, flags: str = "") -> PluginServer:
    """kong-python-pdk, embedded; a thread for each connection, or a greenlet with -g."""
    command = f"{PYTHON} {PLUGINS / 'python/bench.py'} --no-lua-style {flags}".rstrip()
    return PluginServer(
        "bench-python",
        ("bench-python",),
        f"{command} --kong-prefix {{prefix}} --socket-name bench-python.socket",
        f"{command} --dump",
        workers,
    )


def all_languages(cores: int) -> list[Language]:
    """What the scenario `calls` compares; those that run one process also with as many as there are cores."""
    languages = [
        Language("go", "Go, go-pdk", go()),
        Language("js", "JavaScript, kong-js-pdk", javascript()),
        Language("gevent", "Python, kong-python-pdk -g", python(flags="-g")),
        Language("python", "Python, kong-python-pdk", python()),
    ]
    if cores > 1:
        languages += [
            Language("js-workers", f"JavaScript, workers = {cores}", javascript(cores)),
            Language("gevent-workers", f"Python -g, workers = {cores}", python(cores, "-g")),
            Language("python-workers", f"Python, workers = {cores}", python(cores)),
        ]
    return languages
