"""Which process of a sweep does which run.

Processes that were started with the same command over one folder, one a host, share out its runs
without a word between them: who gets the lock FOLDER.lock (base/lock.py) does the run in FOLDER. So
a host that has time takes the next run, and one that dies loses its runs to the others once its
locks show no sign of life. Nobody has to know how many hosts there are.

Others: a job array (SLURM, submitit) gives task i configuration i, so that a task which ends early
idles and a dead one is its scheduler's. Ray Tune's driver and W&B's server hand out runs to agents;
both are one more process that all hosts must reach. Optuna's JournalStorage shares out trials by
files on NFS, with a lock that is made by link(2) or O_EXCL, as here; its RDBStorage lets a trial
show signs of life and counts one without as failed (docs: optuna.storages).

A run that failed is not tried again by the processes that see it fail: FOLDER.failed says with what
exit code. One that was there before the process is of an earlier start of the sweep.
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Sequence

from qoq_jax.base import exit_codes, files, lock
from qoq_jax.sweep.plan import Job

# Codes of a run that was asked to leave: another host may do it.
_ASKED = (exit_codes.PREEMPTED, exit_codes.INTERRUPTED)


class Claims:
    """The locks of runs, as one thread sees them.

    Args:
      folders: of all runs.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self._watch = lock.Watch()
        self._before = {folder: _failure(folder) for folder in folders}

    def claim(self, folder: str) -> contextlib.ExitStack | None:
        """The lock of a run, held until it is closed; None while another process has it.

        A process that died may have left a `qoq train` behind, which holds the workdir itself.
        """
        parent, name = os.path.split(os.path.abspath(folder))
        os.makedirs(parent, exist_ok=True)
        # Both are looked at in each round, so that both are watched for the same time.
        claimed = lock.holder_of(parent, self._watch, f"{name}.lock")
        at_work = lock.holder_of(folder, self._watch)
        claim = None if claimed or at_work else lock.take(parent, self._watch, f"{name}.lock")
        if claim and os.path.exists(os.path.join(folder, lock.NAME)):
            # A dead process's lock, which the run would watch for a minute.
            if left := lock.take(folder, self._watch):
                left.close()
            else:
                claim.close()
                return None
        return claim

    def failure(self, folder: str) -> int:
        """Exit code with which a run has failed since this process began, here or elsewhere; 0 when
        it has not.
        """
        found = _failure(folder)
        return 0 if found == self._before[folder] else found.get("code", 0)

    def begin(self, folder: str) -> None:
        """Forgets how the run failed before; its claim must be held."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(f"{folder}.failed")

    def fail(self, folder: str, code: int) -> None:
        """Tells the others that the run has failed; its claim must be held."""
        if code not in _ASKED:
            files.write_json(f"{folder}.failed", {"code": code, "token": uuid.uuid4().hex})


def _failure(folder: str) -> dict:
    return files.read_json(f"{folder}.failed", {})


def is_finished(folder: str) -> bool:
    """Whether a run has come to its end.

    The folder is listed since opening one makes an NFS client ask its server; that a file is not
    there it may remember for a minute.
    """
    try:
        return "run.json" in os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return False


class Board:
    """The runs of a sweep as this process knows them, for several threads that work at them.

    Args:
      jobs: all runs; one that others start from before these.
      shared: other processes may do some of them. Else all processes do all, in this order.

    Attributes:
      codes: folder -> exit code of a run that did not end well.
      leaving: this process was asked to leave: it begins no other run.
    """

    def __init__(self, jobs: Sequence[Job], shared: bool) -> None:
        self.codes: dict[str, int] = {}
        self.leaving = False
        self._jobs, self._jobs_of = jobs, {job.folder: job for job in jobs}
        self._claims = Claims([job.folder for job in jobs]) if shared else None
        self._finished: set[str] = set()
        self._here: set[str] = set()  # in progress in this process
        self._changed = threading.Condition()

    def take(self, group: Sequence[Job]) -> tuple[Job, contextlib.ExitStack] | None:
        """The first run that can be begun now, and its claim, to be closed after `ended`; None when
        there is none.
        """
        with self._changed:
            for job in group:
                if self.leaving or job.folder in self._here or self._has_failed(job):
                    continue
                if self._is_finished(job.folder) or (
                    job.start and not self._is_finished(job.start)
                ):
                    continue
                if claim := self._take(job):
                    self._here.add(job.folder)
                    return job, claim
        return None

    def _take(self, job: Job) -> contextlib.ExitStack | None:
        if self._claims is None:
            return contextlib.ExitStack()
        claim = self._claims.claim(job.folder)
        if claim is None:
            return None
        # Another process may have done it between the two looks.
        if self._is_finished(job.folder):
            pass
        elif code := self._claims.failure(job.folder):
            self.codes[job.folder] = code
            print(f"{job.folder} failed with exit code {code} in another process", flush=True)
        else:
            self._claims.begin(job.folder)
            return claim
        claim.close()
        return None

    def ended(self, job: Job, code: int) -> None:
        """A run of this process has ended; its claim is still held."""
        with self._changed:
            self._here.discard(job.folder)
            if code:
                self.codes[job.folder] = code
                self.leaving |= code == exit_codes.PREEMPTED
                if self._claims is not None:
                    self._claims.fail(job.folder, code)
            else:
                self._finished.add(job.folder)
            self._changed.notify_all()

    def leave(self) -> None:
        """This process is asked to leave: it begins no other run."""
        self.leaving = True

    def wait(self, seconds: float) -> bool:
        """Waits until a run of this process has ended, so long at most; False when it has none."""
        with self._changed:
            return bool(self._here) and (self._changed.wait(seconds) or True)

    def open(self) -> int:
        """Runs that somebody is at, or can begin; 0 for a process that was asked to leave."""
        with self._changed:
            return 0 if self.leaving else sum(map(self._is_open, self._jobs))

    def _is_open(self, job: Job) -> bool:
        return job.folder not in self._finished and not self._has_failed(job)

    def _is_finished(self, folder: str) -> bool:
        if folder not in self._finished and is_finished(folder):
            self._finished.add(folder)
        return folder in self._finished

    def _has_failed(self, job: Job) -> bool:
        """Whether the run has failed, or one that it would start from."""
        if job.folder in self._finished:
            return False
        behind = self._jobs_of.get(job.start)
        return job.folder in self.codes or (behind is not None and self._has_failed(behind))
