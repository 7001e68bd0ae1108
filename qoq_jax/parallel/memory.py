"""Memory of this process, for a person who watches a run."""

from __future__ import annotations

import os

import jax


def host_bytes() -> int | None:
    """What the process holds of the host's memory (resident set); None where /proc is not there."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def device_bytes() -> tuple[int, int] | None:
    """(in use, limit) of the fullest device of this process; None where the backend does not tell,
    as on CPUs.
    """
    stats = (device.memory_stats() for device in jax.local_devices())
    found = [
        (one["bytes_in_use"], one["bytes_limit"])
        for one in stats
        if one and one.get("bytes_limit") and "bytes_in_use" in one
    ]
    return max(found, key=lambda pair: pair[0] / pair[1], default=None)


def line() -> str:
    """Both in words: "host 2.1 GB  device 11.2 of 16.0 GB"."""
    host, device = host_bytes(), device_bytes()
    words = [] if host is None else [f"host {host / 1e9:.1f} GB"]
    if device is not None:
        words.append(f"device {device[0] / 1e9:.1f} of {device[1] / 1e9:.1f} GB")
    return "  ".join(words)
