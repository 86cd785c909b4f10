#!/usr/bin/env python3
"""Stamp: marks every request with where and when it passed the gateway.

The upstream sees the stamp as a request header, the client as a response header, and the log gets a line when all is done.
"""
import os
from datetime import datetime, timezone

import kong_pdk.pdk.kong as kong

Schema = (
    {"environment": {"type": "string", "default": "development", "one_of": ["development", "staging", "production"]}},
    {"header": {"type": "string", "default": "X-Stamp"}},
)
version = "1.0.0"
priority = 800


class Plugin:
    """One object for each entry in kong.yml; `config` is that entry's `config`, defaults filled in."""

    def __init__(self, config):
        self.environment = config["environment"]
        self.header = config["header"]

    def access(self, kong: kong.kong):
        """Runs before the request goes to the upstream."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        stamp = f"{self.environment}; at={now}; by=python-{os.getpid()}"
        kong.service.request.set_header(self.header, stamp)
        kong.response.set_header(self.header, stamp)

    def log(self, kong: kong.kong):
        """Runs when the client has its answer."""
        kong.log.notice(f"stamped a request that ended with status {kong.response.get_status()}")


if __name__ == "__main__":
    from kong_pdk.cli import start_dedicated_server

    start_dedicated_server("stamp", Plugin, version, priority, Schema)
