"""Sizes for people."""


def readable(count: int) -> str:
    """Bytes in a unit that a person reads: "1.7 GB", "23.4 MB", "812 bytes"."""
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.1f} {unit}"
    return f"{count} bytes"
