"""Load generators: wrk (closed loop, HTTP/1.1), h2load (closed loop, HTTP/2) and oha (open loop at a fixed rate).

Each runs once and comes back as a `Load`. The parsers are apart from the runs, so that they can be tested.
"""

import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .settings import BENCH, TOOLS
from .stats import percentile

PERCENTILES = ("50", "90", "99", "99.9")
OHA = TOOLS / "bench/bin/oha"
LUA = BENCH / "harness/lua/bench.lua"
# What extensions read.
HEADER = "User-Agent: bench"
# An answer that takes longer is a lost one. The slowest plugin servers need seconds with many connections.
ANSWER_WITHIN = 60


class LoadError(Exception):
    """A load generator failed, or printed what it should not."""


@dataclass(frozen=True)
class Load:
    """What one run of a load generator measured."""

    requests: int
    seconds: float
    latency: dict[str, float]  # milliseconds, by percentile
    wrong: dict[str, int] = field(
        default_factory=dict
    )  # answers that are not as they should be, by kind; only those that occurred

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def wrk(url: str, connections: int, seconds: float, threads: int, options: Iterable[str] = ()) -> Load:
    """Closed loop over HTTP/1.1; the options are those of lua/bench.lua."""
    arguments = [
        "wrk",
        f"-t{min(threads, connections)}",
        f"-c{connections}",
        f"-d{max(round(seconds), 1)}s",
        f"--timeout={ANSWER_WITHIN}s",
        "--latency",
        "-H",
        HEADER,
        "-s",
        str(LUA),
        url,
        "--",
        *options,
    ]
    return parse_wrk(_run(arguments, seconds))


def parse_wrk(output: str) -> Load:
    """Reads the line that lua/bench.lua prints."""
    line = next((line for line in output.splitlines() if line.startswith("{")), None)
    if line is None:
        raise LoadError(f"wrk printed no figures:\n{output}")
    figures = json.loads(line)
    kinds = {
        "connect": "not connected",
        "read": "broken off",
        "write": "not sent",
        "status": "not 2xx",
        "timeout": "not answered",
        "wrong": "another answer",
    }
    wrong = {text: figures[kind] for kind, text in kinds.items() if figures[kind]}
    latency = {name: value / 1000 for name, value in figures["latency"].items()}
    return Load(figures["requests"], figures["microseconds"] / 1e6, latency, wrong)


def h2load(url: str, connections: int, streams: int, seconds: float, threads: int, log: Path) -> Load:
    """Closed loop over HTTP/2, `streams` requests at a time on each connection. `log`: for their times."""
    log.unlink(missing_ok=True)
    arguments = [
        "h2load",
        f"-t{min(threads, connections)}",
        f"-c{connections}",
        f"-m{streams}",
        f"-D{max(round(seconds), 1)}",
        f"-N{ANSWER_WITHIN}s",
        f"--header={HEADER}",
        f"--log-file={log}",
        url,
    ]
    output = _run(arguments, seconds)
    with log.open() as lines:
        return parse_h2load(output, lines)


def parse_h2load(output: str, log: Iterable[str]) -> Load:
    """Reads the summary of h2load, and its log: for each request its begin (µs), its status and its duration (µs)."""
    finished = re.search(r"^finished in [^,]*, ([\d.]+) req/s", output, re.M)
    counts = re.search(r"^requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output, re.M)
    statuses = re.search(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output, re.M)
    if not (finished and counts and statuses):
        raise LoadError(f"h2load printed no figures:\n{output}")
    good, *other = (int(count) for count in statuses.groups())
    kinds = {"failed": int(counts[2]), "not answered": int(counts[4]), "not 2xx": sum(other)}
    durations = sorted(
        int(fields[2]) for fields in (line.split() for line in log) if len(fields) == 3 and fields[1].startswith("2")
    )
    if not durations or not good:
        raise LoadError(f"h2load got no answer:\n{output}")
    latency = {name: percentile(durations, float(name)) / 1000 for name in PERCENTILES}
    return Load(good, good / float(finished[1]), latency, {kind: count for kind, count in kinds.items() if count})


def oha(url: str, connections: int, seconds: float, rate: float | None) -> Load:
    """Over HTTP/1.1 at a fixed rate; the latency is taken from when a request was due, not from when it was sent.

    Without a rate it is a closed loop: what that reaches is what this generator can get out of the server.
    """
    arguments = [
        str(OHA),
        "--no-tui",
        "--output-format",
        "json",
        "-z",
        f"{seconds:g}s",
        "-c",
        str(connections),
        "-w",
        "-t",
        f"{ANSWER_WITHIN}s",
        "--redirect",
        "0",
        "-H",
        HEADER,
    ]
    if rate is not None:
        arguments += ["-q", f"{rate:.0f}", "--latency-correction"]
    return parse_oha(_run([*arguments, url], seconds))


def parse_oha(output: str) -> Load:
    """Reads the JSON that oha prints."""
    try:
        figures = json.loads(output)
        summary, latency = figures["summary"], figures["latencyPercentiles"]
        statuses = {int(status): count for status, count in figures["statusCodeDistribution"].items()}
        wrong = {
            "not 2xx": sum(count for status, count in statuses.items() if status // 100 != 2),
            **figures["errorDistribution"],
        }
        return Load(
            requests=sum(statuses.values()),
            seconds=summary["total"],
            latency={name: latency["p" + name] * 1000 for name in PERCENTILES},
            wrong={kind: count for kind, count in wrong.items() if count},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LoadError(f"oha printed no figures ({error!r}):\n{output}") from error


def _run(arguments: list[str], seconds: float) -> str:
    """Runs a generator and returns what it printed. One that has not ended long after its time is killed."""
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=seconds + ANSWER_WITHIN + 30)
    except FileNotFoundError:
        raise LoadError(f"{arguments[0]} is missing: scripts/setup bench") from None
    except subprocess.TimeoutExpired:
        raise LoadError(f"{arguments[0]} did not end") from None
    if done.returncode != 0:
        raise LoadError(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
