"""One request and its whole answer, by curl, which speaks all versions of HTTP."""

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What curl got; status 0: nothing."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


def fetch(url: str, http2: bool = False, within: float = 15.0) -> Answer:
    """Asks once. HTTP/2 means prior knowledge in cleartext, and ALPN in TLS. Certificates are not verified."""
    version = "--http1.1" if not http2 else "--http2" if url.startswith("https:") else "--http2-prior-knowledge"
    done = subprocess.run(["curl", "-sk", "-i", version, "--max-time", f"{within:g}", url], capture_output=True)
    if done.returncode != 0:
        return Answer(0, {}, b"")
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines)
    return Answer(int(first.split()[1]), {name.lower(): value.strip() for name, _, value in fields}, body)
