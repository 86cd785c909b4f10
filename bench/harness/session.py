"""A session: the servers that run, the rounds of load, and what went wrong."""

import contextlib
import fcntl
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import load, probe, processes, servers
from .case import Case, Outcome, Usage
from .gateway import NO_PLUGIN, Gateway
from .servers import Server, ServerError
from .settings import Settings

Measure = Callable[[Case, float], load.Load]
START_WITHIN = 60.0
# Between two loads: the first one's last requests end, their connections are closed.
PAUSE = 0.3


class Session:
    """Runs servers in a scratch directory and measures them. To be used with `with`: it stops what it started."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.problems: list[str] = []
        self.work = Path(tempfile.mkdtemp(prefix="sbbench."))
        self.work.chmod(0o755)  # nginx's workers may be another user's
        self.ports = servers.Ports(settings.port)
        self._running: list[Server] = []
        self._upstream: Server | None = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_servers()
        shutil.rmtree(self.work, ignore_errors=True)

    # Servers ---------------------------------------------------------------------------------------------------------

    @property
    def upstream(self) -> Server:
        """The upstream of all others; it is started when it is first asked for."""
        if self._upstream is None:
            self._upstream = servers.upstream(self.directory("upstream"), self.ports.take())
            if not self.start(self._upstream):
                raise ServerError("the bench has no upstream")
        return self._upstream

    def silverback(self, name: str, configuration: Gateway = NO_PLUGIN) -> Server | None:
        """The gateway; None if it does not start."""
        server = self.prepare_silverback(name, configuration)
        return server if self.start(server, configuration.tls) else None

    def prepare_silverback(self, name: str, configuration: Gateway = NO_PLUGIN) -> Server:
        """The gateway, not started yet. `name` is that of its directory."""
        service = {"name": "origin", "url": f"http://127.0.0.1:{self.upstream.port}", "routes": configuration.routes}
        work = self.directory(name)
        if configuration.tls:
            self.certificate(work)
        listen = " ".join(
            [
                *(["ssl"] if configuration.tls else []),
                *(["http2"] if configuration.http2 else []),
                "reuseport backlog=4096",
            ]
        )
        config = {"services": [service], "plugins": configuration.plugins}
        return servers.silverback(self.settings, work, self.ports.take(), config, configuration.plugin_servers, listen)

    def peer(self, name: str, variant: str) -> Server | None:
        """A peer; None if it does not start."""
        server = self.prepare_peer(name, variant)
        return server if self.start(server, variant == "tls", variant == "h2c") else None

    def prepare_peer(self, name: str, variant: str) -> Server:
        """A peer, not started yet."""
        work = self.directory(f"{name}-{variant.replace('=', '-')}")
        if variant == "tls":
            self.certificate(work)
        return servers.peer(name, work, self.ports.take(), self.upstream.port, self.settings.workers, variant)

    def yardstick(self, variant: str = "plain") -> Server:
        """nginx, which all others are compared with."""
        server = self.peer("nginx", variant)
        if server is None:
            raise ServerError("there is no yardstick")
        return server

    def start(self, server: Server, tls: bool = False, http2: bool = False) -> bool:
        """Starts a server and waits until it answers; if it does not, that is a problem of the session."""
        server.start()
        self._running.append(server)
        deadline = time.monotonic() + START_WITHIN
        while time.monotonic() < deadline and not server.has_ended():
            if probe.fetch(f"{'https' if tls else 'http'}://127.0.0.1:{server.port}/", http2).status == 200:
                return True
            time.sleep(0.05)
        self.problem(f"{server.name} did not start:\n{server.last_words()}")
        return False

    def stop_servers(self) -> None:
        """Stops all servers, the upstream too."""
        for server in self._running:
            if server.process is not None and server.process.poll() is None:
                server.process.terminate()
        for server in self._running:
            server.stop()
        self._running, self._upstream = [], None

    def directory(self, name: str) -> Path:
        """A new directory of that name, or one like it."""
        path = Path(tempfile.mkdtemp(prefix=name + ".", dir=self.work))
        path.chmod(0o755)
        return path

    def certificate(self, directory: Path) -> None:
        """Puts cert.pem and key.pem there: the same for all servers."""
        cert, key = self.work / "cert.pem", self.work / "key.pem"
        if not cert.exists():
            make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost"
            subprocess.run([*make.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
        shutil.copy(cert, directory)
        shutil.copy(key, directory)

    # Measuring -------------------------------------------------------------------------------------------------------

    def measure(self, cases: list[Case], how: Measure | None = None) -> list[Outcome]:
        """Loads each case once in each round; the first is the yardstick.

        Cases that cannot be loaded are left out, and are a problem.
        """
        warm, how = how or self.checked_wrk, how or self.wrk
        outcomes = [Outcome(case) for case in cases if self._answers(case) and self._warm(case, warm)]
        for _ in range(self.settings.rounds):
            outcomes = [outcome for outcome in outcomes if self._load(outcome, how)]
            # The next round begins elsewhere.
            step = -(-len(outcomes) // self.settings.rounds)
            outcomes = outcomes[step:] + outcomes[:step]
        outcomes.sort(key=lambda outcome: cases.index(outcome.case))
        if not outcomes or outcomes[0].case is not cases[0]:
            raise ServerError("there is no yardstick")
        for outcome in outcomes:
            outcome.compare(outcomes[0])
            if outcome.wrong:
                self.problem(f"{outcome.case.label}: wrong answers: {outcome.wrong}")
            self._answers(outcome.case)
        return outcomes

    def wrk(self, case: Case, seconds: float) -> load.Load:
        """Closed loop over HTTP/1.1."""
        return self._wrk(case, seconds, {"routes": case.routes})

    def checked_wrk(self, case: Case, seconds: float) -> load.Load:
        """The same, with a look at every answer, which costs the generator too much for a measurement."""
        return self._wrk(case, seconds, {"routes": case.routes, "length": len(case.body), "calls": case.calls})

    def _wrk(self, case: Case, seconds: float, options: dict[str, int | None]) -> load.Load:
        connections = case.connections or self.settings.connections
        given = [f"{name}={value}" for name, value in options.items() if value is not None]
        return load.wrk(case.url, connections, seconds, self.settings.generator_threads, given)

    def problem(self, text: str) -> None:
        """Notes what makes the run fail, and says so at once."""
        self.problems.append(text)
        print(f"bench: {text}", file=sys.stderr, flush=True)

    def _answers(self, case: Case) -> bool:
        fault = case.fault()
        if fault:
            self.problem(f"{case.label}: {fault}\n{case.server.last_words()}")
        return fault is None

    def _warm(self, case: Case, how: Measure) -> bool:
        """Whether the case can be loaded at all."""
        try:
            with self._alone():
                warm = how(case, self.settings.warmup)
        except load.LoadError as error:
            self.problem(f"{case.label}: {error}")
            return False
        if warm.wrong:
            self.problem(f"{case.label}: wrong answers: {warm.wrong}")
        return True

    def _load(self, outcome: Outcome, how: Measure) -> bool:
        """One load of one round; False if it brought no figures."""
        own, extensions = outcome.case.server.pids()
        with self._alone():
            processes.reset_peak(own + extensions)
            before = {pid: processes.cpu_seconds(pid) for pid in own + extensions}
            try:
                outcome.loads.append(how(outcome.case, self.settings.seconds))
            except load.LoadError as error:
                self.problem(f"{outcome.case.label}: {error}")
                return False
            outcome.usages.append(
                Usage(
                    own_cpu=sum(max(processes.cpu_seconds(pid) - before[pid], 0.0) for pid in own),
                    extension_cpu=sum(max(processes.cpu_seconds(pid) - before[pid], 0.0) for pid in extensions),
                    own_memory=processes.memory(own, "VmHWM"),
                    extension_memory=processes.memory(extensions, "VmHWM"),
                )
            )
        print(f"  {outcome.case.label:44} {outcome.loads[-1].rate:10.0f} requests/s", file=sys.stderr, flush=True)
        return True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other benches that use the same lock from measuring at the same time; then a pause."""
        if self.settings.lock is None:
            yield
        else:
            with self.settings.lock.open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        time.sleep(PAUSE)
