"""Cases: what is loaded, and what came of it."""

from dataclasses import asdict, dataclass, field
from typing import Any

from . import probe
from .load import Load
from .servers import BODIES, Server
from .stats import Spread, ratios


@dataclass(frozen=True)
class Case:
    """One row of a table: a server, and how it is asked."""

    series: str  # whose figure it is: nginx, silverback, go, ...
    label: str
    server: Server
    path: str = "/"
    calls: int | None = None  # what the plugin must say how often it read the header
    tls: bool = False
    http2: bool = False
    connections: int | None = None  # instead of the settings' number
    routes: int | None = None  # requests are spread over /route/1/ to /route/N/
    facts: dict[str, Any] = field(default_factory=dict)  # what tells it from others of its series
    goal: float | None = None  # the ratio to nginx that it should have
    kong: tuple[float, ...] = ()  # Kong's ratio to nginx, on other machines

    @property
    def url(self) -> str:
        """Where it is asked."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.server.port}{self.path}"

    @property
    def body(self) -> bytes:
        """What the upstream answers."""
        return BODIES.get(self.path, BODIES["/"])

    def fault(self) -> str | None:
        """Asks once; says what is wrong with the answer."""
        answer = probe.fetch(self.url, self.http2)
        if answer.status != 200:
            return f"the status is {answer.status}, not 200: {answer.body[:200]!r}"
        if answer.body != self.body:
            return f"the body is not the upstream's: {answer.body[:200]!r}"
        if self.calls is not None and answer.headers.get("x-bench") != str(self.calls):
            return f"the plugin did not run: x-bench is {answer.headers.get('x-bench')!r}, not {self.calls}"
        return None


@dataclass(frozen=True)
class Usage:
    """What one load cost the server; its extensions (plugin servers, agents) apart."""

    own_cpu: float  # seconds
    extension_cpu: float
    own_memory: int  # bytes resident at most
    extension_memory: int


@dataclass
class Outcome:
    """What the rounds gave for a case."""

    case: Case
    loads: list[Load] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    def compare(self, base: "Outcome") -> None:
        """Fills in the ratios to the yardstick, which took part in the same rounds."""
        self.ratios = ratios([load.rate for load in self.loads], [load.rate for load in base.loads])

    @property
    def rate(self) -> Spread:
        """Requests per second."""
        return Spread.of([load.rate for load in self.loads])

    @property
    def ratio(self) -> Spread:
        """Requests per second to the yardstick's."""
        return Spread.of(self.ratios)

    def latency(self, percentile: str) -> Spread:
        """Milliseconds."""
        return Spread.of([load.latency[percentile] for load in self.loads])

    @property
    def own_cpu(self) -> Spread:
        """Microseconds of CPU for each request, the proxy itself."""
        return self._for_each_request([usage.own_cpu for usage in self.usages])

    @property
    def extension_cpu(self) -> Spread:
        """Microseconds of CPU for each request, its plugin servers or agents."""
        return self._for_each_request([usage.extension_cpu for usage in self.usages])

    @property
    def own_memory(self) -> Spread:
        """Resident MB at most, the proxy itself."""
        return Spread.of([usage.own_memory / 1e6 for usage in self.usages])

    @property
    def extension_memory(self) -> Spread:
        """Resident MB at most, its plugin servers or agents."""
        return Spread.of([usage.extension_memory / 1e6 for usage in self.usages])

    @property
    def wrong(self) -> dict[str, int]:
        """Wrong answers of all rounds, by kind."""
        total: dict[str, int] = {}
        for load in self.loads:
            for kind, count in load.wrong.items():
                total[kind] = total.get(kind, 0) + count
        return total

    def as_json(self) -> dict[str, Any]:
        """All figures, for the file of results."""
        figures = {
            "rate": self.rate,
            "ratio": self.ratio,
            "own_cpu_us": self.own_cpu,
            "extension_cpu_us": self.extension_cpu,
            "own_memory_mb": self.own_memory,
            "extension_memory_mb": self.extension_memory,
        }
        latency = {f"p{name}_ms": asdict(self.latency(name)) for name in self.loads[0].latency}
        return {
            "series": self.case.series,
            "label": self.case.label,
            **self.case.facts,
            **{name: asdict(figure) for name, figure in figures.items()},
            **latency,
            "wrong": self.wrong,
            "goal": self.case.goal,
            "kong": list(self.case.kong),
        }

    def _for_each_request(self, seconds: list[float]) -> Spread:
        return Spread.of([used * 1e6 / load.requests for used, load in zip(seconds, self.loads, strict=True)])
