"""How many threads are worth having: processors that may be used, and the time on them that a container gets.

A container may be allowed every processor of its host, but only so much time on them: Linux's control
groups give a quota of microseconds per period, in `cpu.max` (version 2) or `cpu.cfs_quota_us` and
`cpu.cfs_period_us` (version 1). Threads beyond that number would use up the quota early, and then all stand
still until the next period.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return how many cores this process may use: by its affinity, and by the quota of its container."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *_quotas()]))


def _quotas() -> Iterator[int]:
    """Yield the quota of each control group that this process is in, in processors, rounded up."""
    try:
        groups = _GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in groups:
        _, controllers, name = line.split(":", 2)
        if not controllers:
            root = _MOUNT
        elif "cpu" in controllers.split(","):
            root = _MOUNT / controllers
            root = root if root.is_dir() else _MOUNT / "cpu"
        else:
            continue
        # In a container the name may be the host's, while the mount begins at the container's own group.
        for group in (PurePosixPath(name), *PurePosixPath(name).parents):
            with suppress(OSError, ValueError):  # no such group, or none with a quota
                quota, period = _read(root / str(group).lstrip("/"), is_new=not controllers)
                if quota > 0:
                    yield -(-quota // period)


def _read(group: Path, *, is_new: bool) -> tuple[int, int]:
    """Return quota and period of a group, in microseconds.

    Raises:
        OSError: it has none.
        ValueError: the quota is `max`: there is no bound.
    """
    if is_new:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
    else:
        quota, period = (
            (group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
        )
    return int(quota), int(period)
