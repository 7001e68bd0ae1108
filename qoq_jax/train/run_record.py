"""What a run tells about itself: WORKDIR/run.json at its end, and WORKDIR/tally.json on the way
there.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from qoq_jax.base import files
from qoq_jax.parallel import hosts


class RunTotals:
    """Seconds and skipped samples of a run, kept over restarts in WORKDIR/tally.json.

    seconds: wall time of all processes of the run up to their last `keep`; what a kill (-9) cuts
      off after that is not in it.
    skipped: {"where", "reason"} of samples that could not be made, each once.
    """

    def __init__(self, workdir: str):
        self._path = os.path.join(workdir, "tally.json")
        self._began = time.monotonic()
        found = files.read_json(self._path, {}, finite=False)
        self._before = float(found.get("seconds", 0.0))
        self.skipped: list[dict[str, str]] = found.get("skipped", [])

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    def keep(self, skipped: Iterable[dict[str, str]] = ()) -> None:
        """Adds skipped samples that are not known yet and writes the file."""
        self.skipped += [entry for entry in skipped if entry not in self.skipped]
        if hosts.is_main():
            content = {"seconds": self.seconds, "skipped": self.skipped}
            files.write_json(self._path, content)


def write_run(workdir: str, totals: RunTotals, **facts: Any) -> None:
    """Writes run.json: what a reader needs to repeat the run.

    Its command is that of the first process that came to the end.
    """
    if not hosts.is_main():
        return
    path = os.path.join(workdir, "run.json")
    before = files.read_json(path, {}, finite=False)
    files.write_json(
        path,
        {
            "command": before.get("command", "qoq " + " ".join(sys.argv[1:])),
            "versions": {
                "python": platform.python_version(),
                "jax": jax.__version__,
                "numpy": np.__version__,
            },
            "hardware": f"{jax.device_count()} x {jax.devices()[0].device_kind}, "
            f"{os.cpu_count()} CPU cores",
            "seconds": {"all": totals.seconds},
            **facts,
            "skipped": totals.skipped,
        },
    )
