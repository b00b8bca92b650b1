"""Which process this is, whether another one still lives, and how much memory this one has held."""

import os
import resource
import socket
import sys
from pathlib import Path

import psutil


def process_identity() -> str:
    """`host/pid/start`, start in milliseconds since the epoch: never the same for two processes."""
    process = psutil.Process(os.getpid())
    return f"{socket.gethostname()}/{process.pid}/{_started_ms(process)}"


def has_ended(identity: str) -> bool:
    """Whether a process of this machine is gone; False for one elsewhere, of which nothing can be known."""
    host, pid, started = identity.rsplit("/", 2)
    if host != socket.gethostname():
        return False
    try:
        return _started_ms(psutil.Process(int(pid))) != int(started)
    except psutil.NoSuchProcess:
        return True


def peak_memory_bytes() -> int:
    """The most memory this process has held resident.

    On Linux from /proc: what `getrusage` says there begins with the size of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _started_ms(process: psutil.Process) -> int:
    return int(process.create_time() * 1000)
