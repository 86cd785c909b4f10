"""A plugin for the certificate phase, in Python: it does what its configuration says."""
import os
import time

Schema = (
    {"ask": {"type": "boolean"}},
    {"forbid_reuse": {"type": "boolean"}},
    {"share": {"type": "string"}},
    {"refuse": {"type": "string"}},
    {"wait_for": {"type": "string"}},
    {"verdict": {"type": "string"}},
    {"show": {"type": "array", "elements": {"type": "string"}}},
)
version = "1.0.0"
priority = 0


class Plugin:
    def __init__(self, config):
        self.config = {name: value for name, value in config.items() if value is not None}

    def certificate(self, kong):
        config = self.config
        if config.get("ask"):
            kong.client.tls.request_client_certificate()
        if config.get("forbid_reuse"):
            kong.client.tls.disable_session_reuse()
        if "share" in config:
            kong.ctx.shared.set("shared", config["share"])
        if "wait_for" in config:
            kong.log.notice("waits in the handshake")
            while not os.path.exists(config["wait_for"]):
                time.sleep(0.01)
        refuse = config.get("refuse")
        if refuse == "exit":
            kong.response.exit(403, "no")
        elif refuse == "error":
            kong.response.error(500, "no")
        elif refuse == "call":
            kong.request.get_path()

    def access(self, kong):
        if "verdict" in self.config:
            kong.client.tls.set_client_verify(self.config["verdict"])
        shown = {}
        for name in self.config.get("show", []):
            if name == "chain":
                shown[name] = kong.client.tls.get_full_client_certificate_chain()
            elif name == "shared":
                shown[name] = kong.ctx.shared.get("shared")
            elif name == "ip":
                shown[name] = kong.client.get_ip()
            elif name == "forwarded_ip":
                shown[name] = kong.client.get_forwarded_ip()
            elif name == "forwarded_port":
                shown[name] = kong.client.get_forwarded_port()
            else:
                shown[name] = kong.nginx.get_var(name)
        if shown:
            kong.response.exit(200, shown, {"Content-Type": "application/json"})


if __name__ == "__main__":
    from kong_pdk.cli import start_dedicated_server

    start_dedicated_server("handshake-py", Plugin, version, priority, Schema)
