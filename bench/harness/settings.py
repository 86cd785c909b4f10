"""What a run of the bench can be told, and where things lie."""

import os
from dataclasses import dataclass
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
PROJECT = BENCH.parent
TOOLS = PROJECT / ".tools"
PEERS = BENCH / "peers"


@dataclass(frozen=True)
class Settings:
    """What holds for all scenarios of a run; the command line gives it."""

    silverback: Path  # the executable that is measured
    thorough: bool  # False for a quick look
    seconds: float  # of each single load
    warmup: float  # seconds of load before the first round; nothing is taken from it
    rounds: int
    connections: int
    workers: int  # worker processes or threads of each proxy
    port: int  # ports are looked for from here on
    only: frozenset[str]  # series to measure; empty: all. The yardstick is always measured
    lock: Path | None  # a file that is locked during each single load, for machines on which more than one bench runs

    @property
    def generator_threads(self) -> int:
        """Threads of a load generator: it shares the machine with what it loads."""
        return min(os.cpu_count() or 1, self.workers)

    def wants(self, series: str) -> bool:
        """Whether a series (nginx, silverback, go, ...) is to be measured."""
        return not self.only or series in self.only
