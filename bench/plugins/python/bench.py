#!/usr/bin/env python3
"""The plugin of the bench in Python: it reads a request header as often as its configuration says.

It tells so in a response header. Its siblings in ../go and ../node do the same.
"""

from kong_pdk.cli import start_dedicated_server

Schema = ({"calls": {"type": "integer", "default": 0}},)


class Plugin:
    def __init__(self, config):
        self.calls = config["calls"]

    def access(self, kong):
        for _ in range(self.calls):
            kong.request.get_header("user-agent")
        kong.response.set_header("x-bench", str(self.calls))


if __name__ == "__main__":
    start_dedicated_server("bench-python", Plugin, "1.0.0", 0, Schema)
