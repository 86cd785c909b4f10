"""The calls plugin in Python: it makes the PDK calls that its configuration lists, as ../go/main.go."""
import base64
import hashlib
import json
import os
import time

Schema = (
    {"calls": {"type": "string"}},
    {"file": {"type": "string"}},
)
version = "1.0.0"
priority = 0


def shown(value):
    """Makes bytes readable: as text, in base64, or as a digest if there are many."""
    if isinstance(value, bytes):
        if len(value) > 65536:
            return {"sha256": hashlib.sha256(value).hexdigest(), "length": len(value)}
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {str(name): shown(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(item) for item in value]
    return value


def call(kong, name, args):
    if name == "sleep":
        return time.sleep(args[0] / 1000)
    if name == "wait_for":
        while not os.path.exists(args[0]):
            time.sleep(0.01)
        return None
    function = kong
    for word in name.split(".")[1:]:
        function = getattr(function, word)
    return function(*args)


class Plugin:
    def __init__(self, config):
        self.config = config

    def run(self, kong, phase):
        calls = json.loads(self.config["calls"])
        if phase not in calls:
            return
        answers = [[name, shown(call(kong, name, args)), None] for name, *args in calls[phase]]
        with open(self.config["file"], "a") as file:
            file.write(json.dumps({"phase": phase, "answers": answers}) + "\n")

    def rewrite(self, kong):
        self.run(kong, "rewrite")

    def access(self, kong):
        self.run(kong, "access")

    def log(self, kong):
        self.run(kong, "log")


class WithResponse(Plugin):
    def response(self, kong):
        self.run(kong, "response")


if __name__ == "__main__":
    from kong_pdk.cli import start_dedicated_server

    if os.environ.get("CALLS_RESPONSE"):
        start_dedicated_server("calls-py-response", WithResponse, version, priority, Schema)
    else:
        start_dedicated_server("calls-py", Plugin, version, priority, Schema)
