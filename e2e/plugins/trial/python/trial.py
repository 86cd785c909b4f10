"""The trial plugin in Python: it does what its configuration says, as ../go/main.go."""
import os
import sys
import time

Schema = (
    {"trace": {"type": "string"}},
    {"header": {"type": "string"}},
    {"value": {"type": "string"}},
    {"delay_ms": {"type": "integer"}},
    {"wait_for": {"type": "string"}},
    {"hang": {"type": "boolean"}},
    {"fail": {"type": "boolean"}},
    {"exit": {"type": "integer"}},
    {"fault": {"type": "string"}},
    {"file": {"type": "string"}},
    {"log_file": {"type": "string"}},
    {"target": {"type": "string"}},
)
version = "1.0.0"
priority = int(os.environ.get("TRIAL_PRIORITY", "0"))


class Plugin:
    def __init__(self, config):
        self.config = {name: value for name, value in config.items() if value is not None}

    def __setstate__(self, state):
        # of an instance that a worker of the multiprocessing mode is given with an event
        if state["config"].get("fault") == "exit worker":
            os._exit(3)
        self.__dict__.update(state)

    def access(self, kong):
        config = self.config
        fault = config.get("fault")
        if fault == "raise first":
            raise RuntimeError("told to fail")
        if fault == "sys.exit":
            sys.exit(3)
        if "trace" in config:
            kong.service.request.add_header("X-Trace", config["trace"])
        if "header" in config:
            kong.response.set_header(config["header"], config.get("value", ""))
        time.sleep(config.get("delay_ms", 0) / 1000)
        while "wait_for" in config and not os.path.exists(config["wait_for"]):
            time.sleep(0.01)
        if config.get("hang"):
            time.sleep(3600)
        if fault:
            self.commit(fault, kong)
        if config.get("fail"):
            raise RuntimeError("told to fail")
        if "exit" in config:
            kong.response.exit(config["exit"], "told to exit")

    def commit(self, fault, kong):
        if fault == "exit process":
            os._exit(3)
        if fault == "loop":
            while True:
                kong.request.get_method()
        if fault == "large header":
            kong.response.set_header("X-Large", "a" * (256 << 20))
        if fault == "large exit":
            kong.response.exit(200, "a" * (256 << 20))
        if fault == "catch":
            try:
                kong.response.set_status("none")
            except Exception:
                pass
            with open(self.config["file"], "a") as file:
                file.write("went on\n")
        if fault == "call after exit":
            kong.response.exit(403, "told to exit")
            kong.request.get_method()
            with open(self.config["file"], "a") as file:
                file.write("went on\n")

    def preread(self, kong):
        config = self.config
        time.sleep(config.get("delay_ms", 0) / 1000)
        if config.get("hang"):
            time.sleep(3600)
        if config.get("fail"):
            raise RuntimeError("told to fail")
        if "target" in config:
            host, port = config["target"].split(":")
            kong.service.set_target(host, int(port))
        if "exit" in config:
            kong.response.exit(config["exit"], "told to exit")

    def log(self, kong):
        if "log_file" in self.config:
            if kong.nginx.get_subsystem() == "stream":
                line = kong.log.serialize() + "\n"
            else:
                line = f"{kong.response.get_status()} {kong.request.get_path()}\n"
            with open(self.config["log_file"], "a") as file:
                file.write(line)


if __name__ == "__main__":
    from kong_pdk.cli import start_dedicated_server

    start_dedicated_server("trial-py", Plugin, version, priority, Schema)
