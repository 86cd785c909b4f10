"""Processes and what they use: trees of them, CPU time, memory. All from /proc."""

import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """A process and all that descend from it, as far as they are alive."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, left = [], [root]
    while left:
        pid = left.pop()
        found.append(pid)
        left += children.get(pid, [])
    return found


def command(pid: int) -> str:
    """The name of the executable, as `ps` shows it; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used, all its threads together; 0 if it is gone."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else 0.0


def memory(pids: Iterable[int], kind: str) -> int:
    """Bytes of processes together: VmRSS (resident now), VmHWM (resident at most), Pss (shared pages in parts)."""
    file = "smaps_rollup" if kind == "Pss" else "status"
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind + ":"))
    return total


def reset_peak(pids: Iterable[int]) -> None:
    """Makes VmHWM count anew, from what is resident now."""
    for pid in pids:
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        except OSError:
            pass  # It ended, or is another user's: then the peak is that of its whole life.


def stop(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """Ends a process with SIGTERM, and with SIGKILL, together with its process group, if that does not help."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat behind the name: state, parent, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
