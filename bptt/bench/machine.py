"""Where a measurement was made: a number without it says nothing."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bptt import _backend

CPU = Path("/sys/devices/system/cpu/cpu0")


def processors() -> int:
    """Return how many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Return the machine, the system and the versions, ready for JSON."""
    return {
        "cpu": _model(),
        "processors": processors(),
        "caches": _caches(),
        "memory_bytes": _memory(),
        "isa": _isa(),
        "system": platform.platform(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "bptt": _backend.config(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("BPTT_", "OMP_", "XLA_"))
        },
    }


def summary(machine: dict[str, Any]) -> str:
    """Return the description in one line."""
    caches = ", ".join(f"{name} {size}" for name, size in machine["caches"].items())
    return (
        f"{machine['cpu']}, {machine['processors']} processors"
        f"{' (' + caches + ')' if caches else ''}, {machine['isa']}, "
        f"{machine['system']}, {machine['date']}"
    )


def _model() -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _isa() -> str:
    """Return the widest vector instructions that the system offers."""
    for line in _lines(Path("/proc/cpuinfo")):
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = value.split()
            return next(
                (n for n in ("avx512f", "avx2", "sse2", "asimd") if n in flags), "?"
            )
    return platform.machine()


def _caches() -> dict[str, str]:
    """Return the size of each cache of the first processor, by level and type."""
    caches = {}
    for index in sorted(CPU.glob("cache/index*")):
        level, kind, size = (
            " ".join(_lines(index / name)) for name in ("level", "type", "size")
        )
        if level and kind != "Instruction":
            caches[f"L{level}{'d' if kind == 'Data' else ''}"] = size
    return caches


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
