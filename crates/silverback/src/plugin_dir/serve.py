"""Serves a plugin that is a plain module: serve.py NAME FILE [flags of kong-python-pdk]. Written by the gateway for plugin_dir."""
import importlib.util
import os
import sys

name, path = sys.argv[1:3]
del sys.argv[1:3]
# Last, so that no plugin hides a module of Python's own.
sys.path.append(os.path.dirname(path))

spec = importlib.util.spec_from_file_location("kong_plugin_" + name, path)
plugin = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = plugin
spec.loader.exec_module(plugin)

from kong_pdk.cli import start_dedicated_server  # noqa: E402

start_dedicated_server(
    name,
    plugin.Plugin,
    getattr(plugin, "version", None),
    getattr(plugin, "priority", 0),
    getattr(plugin, "Schema", []),
)
