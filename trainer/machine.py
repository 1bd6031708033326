"""What this machine, or the container that this process is in, can still give."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MAX_WORKERS = 8


def free_memory() -> int:
    """Bytes."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if limit.is_file() and (text := limit.read_text(encoding="ascii").strip()) != "max":
        return min(available, int(text) - int(used.read_text(encoding="ascii")))
    return available


def available_workers(cgroup: Path = _CGROUP) -> int:
    """Loading processes for each training process: the CPUs that training itself does not take."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(_MAX_WORKERS, _cpus(cgroup) // local - 1))


def _cpus(cgroup: Path) -> int:
    """Those that this process may run on; no more than the container's quota of their time makes up."""
    cpus, quota = len(os.sched_getaffinity(0)), cgroup / "cpu.max"
    if not quota.is_file():
        return cpus
    # As "200000 100000", microseconds in each period of so many; or "max 100000".
    allowed, period = quota.read_text(encoding="ascii").split()
    return cpus if allowed == "max" else min(cpus, int(allowed) // int(period))
