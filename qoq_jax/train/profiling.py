"""Where the time goes in a step: a trace for xprof, a memory profile, and a log of compilations.

WORKDIR/profile/STAGE/plugins/profile/...   a trace of `profile.steps` steps of each process:
                                            xprof --logdir WORKDIR/profile/STAGE
WORKDIR/profile/STAGE/memory-PROCESS.prof   live device buffers after the last of them, in the
                                            format of pprof
WORKDIR/compile_log.jsonl                   every compilation of process 0: "time", "phase",
                                            "function", "seconds"
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator

import jax

from qoq_jax.base import append, objects, progress, storage
from qoq_jax.parallel import hosts
from qoq_jax.train.loop import Hook, Loop
from qoq_jax.train.sections import ProfileConfig

COMPILED = "/jax/core/compile/backend_compile_duration"  # the cache's reading included


class ProfileSteps(Hook):
    """Traces the steps that section profile names. For a workdir that is a URL the files are made
    on this machine and uploaded after the last of them.
    """

    def __init__(self, workdir: str, cfg: ProfileConfig):
        self._cfg, self._folder, self._tracing = cfg, os.path.join(workdir, "profile"), False
        self._made = self._folder

    @contextlib.contextmanager
    def around_step(self, loop: Loop) -> Iterator[None]:
        cfg = self._cfg
        if not self._tracing and cfg.start <= loop.done < cfg.start + cfg.steps:
            if storage.is_url(self._folder):
                self._made = tempfile.mkdtemp(prefix="qoq_")
            jax.profiler.start_trace(os.path.join(self._made, loop.name))
            self._tracing = True
        yield

    def after_step(self, loop: Loop) -> None:
        if self._tracing and (loop.is_last or loop.done >= self._cfg.start + self._cfg.steps):
            # Steps run ahead of the host: the trace is of what is done.
            jax.block_until_ready(loop.last.metrics)
            self._stop(loop)

    def preempted(self, loop: Loop) -> None:
        if self._tracing:
            self._stop(loop)

    def _stop(self, loop: Loop) -> None:
        jax.profiler.stop_trace()
        self._tracing = False
        made = os.path.join(self._made, loop.name)
        name = f"memory-{hosts.process_index()}.prof"
        jax.profiler.save_device_memory_profile(os.path.join(made, name))
        folder = os.path.join(self._folder, loop.name)
        if made != folder:
            objects.upload_tree(made, folder)
            shutil.rmtree(self._made, ignore_errors=True)
        if hosts.is_main():
            print(f"{loop.name}: a trace of the steps up to {loop.done} is in {folder}")


class CompileLog:
    """Tells `progress` of compilations, and writes them down while a run is open."""

    _lines: append.Lines | None = None
    _listening = False

    @classmethod
    @contextlib.contextmanager
    def open(cls, workdir: str) -> Iterator[None]:
        """Inside, compilations are logged in `workdir`."""
        if not cls._listening:  # JAX keeps its listeners for good
            jax.monitoring.register_event_duration_secs_listener(cls._on_event)
            cls._listening = True
        if hosts.is_main():
            cls._lines = append.Lines(os.path.join(workdir, "compile_log.jsonl"))
        try:
            yield
        finally:
            cls._lines = None

    @classmethod
    def _on_event(cls, event: str, duration: float, **facts: object) -> None:
        if event != COMPILED:
            return
        row = {
            "time": time.time(),
            "phase": progress.current(),
            "function": str(facts.get("fun_name", "")),
            "seconds": round(duration, 4),
        }
        progress.charge("compile", duration)
        if cls._lines is not None:
            with contextlib.suppress(OSError):
                cls._lines.write(json.dumps(row) + "\n")
