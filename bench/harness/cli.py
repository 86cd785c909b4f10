"""The command line: reads what is asked for, runs the scenarios, prints tables, writes results and curves."""

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .scenarios import ALL, Scenario
from .servers import ServerError
from .session import Session
from .settings import BENCH, PROJECT, TOOLS, Settings

RESULTS = BENCH / "results"
VENV_PYTHON = TOOLS / "bench/venv/bin/python"


def main(arguments: list[str]) -> int:
    """Runs the bench; the exit status is 0 if every server started and every answer was right."""
    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(f"{scenario.name:12} {scenario.about}" for scenario in ALL))
        return 0
    unknown = set(options.scenarios) - {scenario.name for scenario in ALL}
    if unknown:
        return _refuse(f"there is no scenario {', '.join(sorted(unknown))}: bench/run --list")
    settings = _settings(options)
    if not os.access(settings.silverback, os.X_OK):
        return _refuse(f"{settings.silverback} is missing: make build")
    missing = [command for command in ("wrk", "h2load", "curl", "openssl", "setpriv") if not shutil.which(command)]
    if missing:
        return _refuse(f"{', '.join(missing)} not found: scripts/setup bench")
    # Many clients, many connections; children inherit it.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # So that what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    chosen = [scenario for scenario in ALL if not options.scenarios or scenario.name in options.scenarios]
    problems: list[str] = []
    results: dict[str, Any] = {"machine": _machine(), "settings": _plain(settings), "scenarios": {}}
    try:
        for scenario in chosen:
            results["scenarios"][scenario.name] = _run(scenario, settings, problems)
            _write(results | {"problems": problems}, options.output)
    except KeyboardInterrupt:
        return 130
    _draw(options.output)
    if problems:
        print(f"\nbench: {len(problems)} problems:\n" + "\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


def _run(scenario: Scenario, settings: Settings, problems: list[str]) -> dict[str, Any]:
    """Runs one scenario with servers of its own, and prints its table."""
    print(f"\n== {scenario.name}: {scenario.about}", flush=True)
    begin = time.monotonic()
    rows = []
    with Session(settings) as session:
        try:
            report = scenario.run(session)
            rows = report.rows
            print(f"\n{report.text}", flush=True)
        except ServerError as error:
            session.problem(str(error))
        problems += [f"{scenario.name}: {problem}" for problem in session.problems]
    return {"about": scenario.about, "seconds": round(time.monotonic() - begin), "rows": rows}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench/run", description="Measures the gateway beside nginx and other proxies: see bench/README.md."
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="all by default")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    parser.add_argument("--quick", action="store_true", help="one short round of each: a look, not a measurement")
    parser.add_argument("--seconds", type=float, help="of each single load (3; quick: 1)")
    parser.add_argument("--rounds", type=int, help="how often each case is measured (3; quick: 1)")
    parser.add_argument("--connections", type=int, default=32, help="of the load generators (32)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="of each proxy (one for each core)")
    parser.add_argument("--port", type=int, default=22900, help="the first of the ports of 127.0.0.1 to take (22900)")
    parser.add_argument(
        "--only",
        default="",
        metavar="SERIES,...",
        help="measure only these (silverback, go, js, haproxy, ...) and the yardstick",
    )
    parser.add_argument(
        "--lock", type=Path, help="a file to lock during each single load, if more than one bench runs on this machine"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="where results and curves go (bench/results)")
    parser.add_argument(
        "--silverback",
        type=Path,
        default=Path(os.environ.get("SILVERBACK", PROJECT / "target/release/silverback")),
        help="the executable (SILVERBACK, or target/release/silverback)",
    )
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    seconds = options.seconds or (1.0 if options.quick else 3.0)
    return Settings(
        silverback=options.silverback.resolve(),
        thorough=not options.quick,
        seconds=seconds,
        warmup=1.0,
        rounds=options.rounds or (1 if options.quick else 3),
        connections=options.connections,
        workers=options.workers,
        port=options.port,
        only=frozenset(filter(None, options.only.split(","))),
        lock=options.lock,
    )


def _machine() -> dict[str, Any]:
    """What the figures depend on, besides the code."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _plain(settings: Settings) -> dict[str, Any]:
    return {
        name: sorted(value) if isinstance(value, frozenset) else str(value) if isinstance(value, Path) else value
        for name, value in asdict(settings).items()
    }


def _write(results: dict[str, Any], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def _draw(directory: Path) -> None:
    if not VENV_PYTHON.exists():
        print("bench: no curves are drawn: matplotlib is missing (scripts/setup bench)", file=sys.stderr)
        return
    subprocess.run([VENV_PYTHON, BENCH / "harness/charts.py", directory / "results.json"], check=True)


def _refuse(text: str) -> int:
    print(f"bench: {text}", file=sys.stderr)
    return 1
