"""The run that kill_storm.py and signal_matrix.py disturb: nano, a few steps of SFT and of DRPO,
one device, programs compiled without optimisation.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

from helpers.flags import FASTER

REPOSITORY = pathlib.Path(__file__).parents[1]
FLAGS = " ".join(FASTER)
HEARTBEAT = 10  # seconds without a sign of life after which another process is dead
OVERRIDES = {
    "data.mini_rows": 80,
    "data.real": False,
    "data.max_response_tokens": 64,
    "sft.steps": 6,
    "sft.rows": 4,
    "sft.samples": 12,
    "sft.save_every": 2,
    "rl.steps": 6,
    "rl.questions": 4,
    "rl.rollouts": 2,
    "rl.response_tokens": 8,
    "rl.save_every": 2,
    "rl.old_logprobs": "trainer",
    "rl.drpo.history_size": 8,
    "eval.limit_per_domain": 2,
    "eval.rows": 4,
    "eval.gallery": 0,
    "log.every": 1,
    "log.tensorboard": False,
}


class SmallRun:
    """One command, in one process or several on this machine.

    Args:
      root: folder of the data set and of the compiled programs, which all runs share.
      workdir: of the run.
      overrides: config fields in the place of those above.
      processes: of the run, with one device each; the rows of a batch are cut over them.
      program: of Python, before the arguments of `qoq`.
    """

    def __init__(
        self,
        root: pathlib.Path,
        workdir: pathlib.Path,
        overrides: dict[str, object] | None = None,
        processes: int = 1,
        program: Sequence[str] = ("-m", "qoq_jax.cli.main"),
    ):
        self._root, self.workdir, self._count = root, workdir, processes
        self._program = program
        several = {"mesh.data": processes, "data.media_rows": processes}
        self._fields = OVERRIDES | (several if processes > 1 else {}) | (overrides or {})
        self.processes: list[subprocess.Popen] = []
        self.started = 0.0  # time.time() of the last start

    def command(self) -> list[str]:
        """The same for all processes."""
        given = {"data.root": self._root, "workdir": self.workdir} | self._fields
        given["compile_cache"] = self._root / "compile_cache"
        config = REPOSITORY / "configs/quickstart.py"
        command = [sys.executable, *self._program, "train", f"--config={config}"]
        return command + [f"--config.{name}={value}" for name, value in given.items()]

    def _joins(self, index: int, port: int) -> dict[str, str]:
        """Environment variables by which several processes find each other."""
        if self._count == 1:
            return {}
        return {
            "QOQ_COORDINATOR": f"localhost:{port}",
            "QOQ_PROCESS_COUNT": str(self._count),
            "QOQ_PROCESS_INDEX": str(index),
            "QOQ_HEARTBEAT_SECONDS": str(HEARTBEAT),
        }

    def start(self) -> SmallRun:
        """Starts all processes; what they print goes to `log`."""
        environment = os.environ | {
            "XLA_FLAGS": FLAGS,
            "JAX_PLATFORMS": "cpu",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",
        }
        port = _free_port()
        self.workdir.mkdir(parents=True, exist_ok=True)
        self.processes, self.started = [], time.time()
        for index in range(self._count):
            with self.log(index).open("ab") as log:
                self.processes.append(
                    subprocess.Popen(
                        self.command(),
                        env=environment | self._joins(index, port),
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        return self

    def log(self, index: int = 0) -> pathlib.Path:
        """What a process has printed, in all its starts."""
        return self.workdir / f"log-{index}.txt"

    def said(self) -> str:
        """What the first process has printed so far."""
        path = self.log()
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self, timeout: float) -> list[int]:
        """Exit codes; a process that is still there after `timeout` seconds is killed, and that is
        an error.
        """
        try:
            return [process.wait(timeout) for process in self.processes]
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to all that are left, stopped ones too."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def committed(workdir: pathlib.Path, stage: str) -> list[int]:
    """Steps of a stage whose checkpoints are whole."""
    folder = workdir / "checkpoints" / stage
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def is_saving(workdir: pathlib.Path, since: float) -> bool:
    """Whether a save of any stage is in flight, or was when the process was killed: there is a
    file in a folder that is not committed, and it was written after `since` (time.time).

    The time of the folder itself says nothing. A killed process leaves its folder, and one that
    starts later deletes files in it.
    """
    for folder in (workdir / "checkpoints").glob("*/*.orbax-checkpoint-tmp*"):
        for where, _, names in os.walk(folder):  # which passes over what is gone meanwhile
            with contextlib.suppress(FileNotFoundError):
                if any(os.stat(os.path.join(where, name)).st_mtime > since for name in names):
                    return True
    return False


def final_state(workdir: pathlib.Path, stage: str = "rl") -> dict[str, np.ndarray]:
    """Every array of the last checkpoint of a stage, read without the run's code."""
    import jax
    import orbax.checkpoint as ocp

    folder = workdir / "checkpoints" / stage / str(committed(workdir, stage)[-1]) / "state"
    reader = ocp.PyTreeCheckpointer()
    as_numpy = jax.tree.map(  # whatever devices wrote it
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
        reader.metadata(folder).item_metadata.tree,
    )
    tree = reader.restore(folder, restore_args=as_numpy)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def differences(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> Sequence[str]:
    """Names of arrays that are not the same bits in both."""
    return sorted(
        name
        for name in a.keys() | b.keys()
        if name not in a or name not in b or a[name].tobytes() != b[name].tobytes()
    )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
