"""The chaos plugin in Python: it marks the request as checked, unless a request asks for a fault first, as ../go/main.go."""
import os
import socket
import struct
import subprocess
import sys
import time

Schema = (
    {"first": {"type": "string"}},
    {"refuse": {"type": "boolean"}},
)


class Plugin:
    def __init__(self, config):
        self.first = config.get("first")
        if config.get("refuse"):
            raise ValueError("told to refuse")

    def access(self, kong):
        if self.first:
            commit(self.first, kong)
        commit(kong.request.get_header("x-fault"), kong)
        time.sleep(0.01)  # so that some events are always under way
        kong.service.request.set_header("X-Checked", "yes")


def commit(fault, kong):
    if fault == "raise":
        raise RuntimeError("told to raise")
    elif fault == "exit":
        os._exit(3)
    elif fault == "hang":
        time.sleep(3600)
    elif fault == "spin":
        while True:
            pass
    elif fault == "flood":
        for _ in range(50000):
            print("flood " * 170)
    elif fault == "loop":
        while True:
            kong.request.get_method()
    elif fault == "big":
        kong.response.set_header("X-Big", "a" * (256 << 20))
    elif fault == "children":
        grandchildren()
    elif fault == "garbage":
        send(b"\xc1" * 64)
    elif fault == "truncated":
        send(b"\x94\x01\x05\xc0\xdb\x00\x00\x10\x00abc", shutdown=True)
    elif fault == "oversized":
        send(b"\x94\x01\x05\xc0\xc6" + struct.pack(">I", 0xFFFFFFFF) + b"x" * 65536)
    elif fault == "sequence":
        send(b"\x94\x01\xce\x7f\xff\xff\xff\xc0\xc0")
    elif fault == "closed":
        send(b"", shutdown=True)


def send(data, shutdown=False):
    """Writes to every connection that the gateway has to this process, behind the back of the PDK."""
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.fromfd(int(name), socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.getpeername()
                if str(connection.getsockname()).endswith(".sock"):
                    connection.send(data)
                    if shutdown:
                        connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def grandchildren():
    """Leaves two processes behind: one in the process's group, one in a session of its own."""
    prefix = sys.argv[sys.argv.index("--kong-prefix") + 1]
    for own in (False, True):
        subprocess.Popen(["sh", "-c", "while :; do sleep 1; done", "grandchild", prefix], start_new_session=own)


if __name__ == "__main__":
    from kong_pdk.cli import start_dedicated_server

    start_dedicated_server("chaos-py", Plugin, "1.0.0", 0, Schema)
