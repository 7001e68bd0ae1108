"""A folder belongs to one process: an exclusive lock file, also over NFS.

The design is that of open(2), section O_EXCL, and of liblockfile: a file with a name of its own is
hard-linked to the lock's name, and its link count tells whether that worked, since over NFS the
answer to link(2) may get lost and flock(2) may be local to a machine. Where a file system has no
hard links, O_EXCL takes their place.

The file says who holds it: {"host", "machine", "pid", "ticks", "since", "token"}. A process of the
same machine and process namespace is dead when its id is free or belongs to a process with another
start time. Of another machine nothing can be seen but the file's time of change, which its holder
renews each BEAT seconds: a time that does not change while one watches for PATIENCE seconds is a
dead holder's. No clocks are compared. Who looks at many locks keeps a `Watch`, and waits for none.

Taking over the lock of a dead process with token X means to be the one who creates LOCK.after-X.
Whoever did is the holder from that moment on, for all who follow the chain, and then puts its own
file in the lock's place.

In an object store there is neither a link nor an exclusive open, and fcntl does not reach it.
"Write this object unless there is one" takes their place, which S3 and Google Cloud Storage decide
for all their clients. The protocol is the same. A holder shows that it lives by writing an object
of its own, LOCK.beat-X, each OBJECT_BEAT seconds: writing the lock itself again could undo a
takeover.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from qoq_jax.base import files, objects, storage
from qoq_jax.base.errors import ConfigError

NAME = "lock"
BEAT = 2.0  # seconds between two signs of life
OBJECT_BEAT = 15.0  # ... of a lock in an object store, where each is a paid request
PATIENCE = 60.0  # seconds without one after which a process of another machine counts as dead
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES)


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
      host: name of the machine, for people.
      machine: boot and process namespace in which `pid` means something.
      pid: process id.
      ticks: start time of the process, from /proc/PID/stat; "" where there is no /proc.
      since: date of the lock.
      token: unique for each lock taken.
    """

    host: str = "an unknown machine"
    machine: str = ""
    pid: int = 0
    ticks: str = ""
    since: str = "an unknown time"
    token: str = "unknown"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class Watch:
    """Which holders live, told from several looks of which none waits; of one thread.

    The time between two looks counts as PATIENCE / 4 at most: while the server of a folder does not
    answer, nobody can show a sign of life, and nobody is dead for that.
    """

    def __init__(self) -> None:
        # (lock, token) -> (what was seen, when, seconds for which it was seen unchanged)
        self._seen: dict[tuple[str, str], tuple[int | str, float, float]] = {}

    def alive(self, path: str, holder: Holder) -> bool | None:
        """Whether the holder of a lock lives; None while that cannot be said yet."""
        if holder.machine and holder.machine == _machine():
            return _ticks(holder.pid) == holder.ticks and _exists(holder.pid)
        found, now = _changed(path, holder), time.monotonic()
        if found is None:
            return False
        seen = self._seen.get((path, holder.token))
        if seen is None or seen[0] != found:
            self._seen[path, holder.token] = found, now, 0.0
            return None if seen is None else True
        unchanged = seen[2] + min(now - seen[1], PATIENCE / 4)
        self._seen[path, holder.token] = found, now, unchanged
        return False if unchanged >= PATIENCE else None


def holder_of(folder: str, watch: Watch, name: str = NAME) -> Holder | None:
    """Who holds the folder; None when nobody does, or a process that is known to be dead."""
    chain = _chain(os.path.join(storage.absolute(folder), name))
    return chain[-1][1] if chain and watch.alive(*chain[-1]) is not False else None


def take(folder: str, watch: Watch, name: str = NAME) -> contextlib.ExitStack | None:
    """`hold` without waiting: the lock, held until it is closed; None while another process has it,
    or may have it.

    Args:
      watch: knows which holders of other machines are dead.
      name: of the lock file, where a folder has several.
    """
    with contextlib.ExitStack() as held:
        lock = os.path.join(storage.absolute(folder), name)
        try:
            held.enter_context(_held(lock, lambda *of: watch.alive(*of) is not False, folder))
        except ConfigError:
            return None
        return held.pop_all()


@contextlib.contextmanager
def hold(folder: str, other: str = "give another --config.workdir") -> Iterator[None]:
    """Inside, the folder belongs to this process.

    Args:
      other: what a user can do beside waiting for the one who holds it, for the error.

    Raises:
      ConfigError: to another process, which is named.
    """
    lock = os.path.join(storage.absolute(folder), NAME)
    with _held(lock, lambda path, holder: _alive(path, holder, folder), folder, other):
        yield


@contextlib.contextmanager
def _held(
    lock: str, lives: Callable[[str, Holder], bool], folder: str, other: str = ""
) -> Iterator[None]:
    mine = _this_process()
    _acquire(lock, mine, lives, folder, other)
    ended = threading.Event()
    beat = threading.Thread(
        target=_beat, args=(lock, mine, ended), name="workdir lock", daemon=True
    )
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join(BEAT)
        # Not in a forked child, which the lock does not belong to.
        if os.getpid() == mine.pid and _read(lock) == mine:
            storage.remove(lock)
            if storage.is_url(lock):
                storage.remove(_beat_of(lock, mine))


# --------------------------------------------------------------------------------------- taking it


def _acquire(
    lock: str, mine: Holder, lives: Callable[[str, Holder], bool], folder: str, other: str
) -> None:
    while True:
        if _create(lock, mine):
            return
        chain = _chain(lock)
        if not chain:  # released just now
            continue
        path, holder = chain[-1]
        if lives(path, holder):
            raise ConfigError(
                f"is in use by {holder}",
                where=folder,
                hint=f"wait for it, end it, or {other}",
            )
        marker = f"{lock}.after-{holder.token}"
        if not _create(marker, mine):
            continue  # another process was faster
        chain = _chain(lock)
        if not chain or chain[-1][1] != mine:  # another took over and is done with it
            storage.remove(marker)
            continue
        _put(lock, mine)
        for path, _ in chain[1:]:
            _remove(path)
        if storage.is_url(lock):
            for _, holder in chain[:-1]:
                _remove(_beat_of(lock, holder))
        return


def _chain(lock: str) -> list[tuple[str, Holder]]:
    """The lock and those who took it over one after the other; the last one holds it."""
    found: list[tuple[str, Holder]] = []
    path = lock
    while (holder := _read(path)) is not None:
        found.append((path, holder))
        path = f"{lock}.after-{holder.token}"
    return found


def _create(path: str, mine: Holder) -> bool:
    """Creates the file unless it is there; one of several callers gets True."""
    if storage.is_url(path):
        return objects.create(path, json.dumps(dataclasses.asdict(mine)).encode())
    unique = f"{path}.{mine.token}"
    with open(unique, "w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(mine), file)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(unique, path)
        return True
    except OSError as error:
        if os.stat(unique).st_nlink == 2:  # it was made, and the answer got lost
            return True
        if error.errno not in _NO_LINKS:
            if error.errno == errno.EEXIST:
                return False
            raise
    finally:
        os.remove(unique)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(mine), file)
    return True


def _put(path: str, mine: Holder) -> None:
    if storage.is_url(path):
        objects.write(path, json.dumps(dataclasses.asdict(mine)).encode())
        return
    unique = f"{path}.{mine.token}"
    with open(unique, "w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(mine), file)
    os.replace(unique, path)


def _read(path: str) -> Holder | None:
    """Who holds the lock; None when there is no file, an unknown holder when it says nothing."""
    try:
        # opened, not stat'ed: opening makes an NFS client ask its server
        return Holder(**json.loads(files.read_bytes(path)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return Holder(token=f"unreadable-{os.path.basename(path)}")


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        storage.remove(path)


# ----------------------------------------------------------------------------------- signs of life


def _beat(lock: str, mine: Holder, ended: threading.Event) -> None:
    """Renews the file's time of change; ends the process when another one has taken it over.

    That is safe at any moment, and continuing would let two processes write into one folder.
    """
    while not ended.wait(OBJECT_BEAT if storage.is_url(lock) else BEAT):
        try:
            _show_life(lock, mine)
            holder = _read(lock)
        except OSError:  # the folder is gone, or its server does not answer: try again
            continue
        if holder is not None and holder != mine and not ended.is_set():
            print(
                f"qoq: {lock}: was taken over by {holder}, since this process had not refreshed it "
                f"for {PATIENCE:.0f} s (hint: start it again where the machine stood still, else "
                "give each run a workdir of its own)",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)


def _show_life(lock: str, mine: Holder) -> None:
    if storage.is_url(lock):
        objects.write(_beat_of(lock, mine), uuid.uuid4().hex.encode())
    else:
        os.utime(lock)


def _beat_of(path: str, holder: Holder) -> str:
    return f"{path.partition('.after-')[0]}.beat-{holder.token}"


def _alive(path: str, holder: Holder, folder: str) -> bool:
    """Whether the holder of a lock lives; waits until that is known."""
    watch = Watch()
    alive = watch.alive(path, holder)
    if alive is None:
        print(
            f"qoq: {folder}: the last run here was {holder}; checking whether it still runs "
            f"(at most {PATIENCE:.0f} s)",
            file=sys.stderr,
            flush=True,
        )
    while alive is None:
        time.sleep(BEAT / 4)
        if _read(path) != holder:
            return False  # released or taken over; the caller looks again
        alive = watch.alive(path, holder)
    return alive


def _changed(path: str, holder: Holder) -> int | str | None:
    """What is another one after each sign of life; None when the lock is gone."""
    if storage.is_url(path):
        if _read(path) is None:
            return None
        try:
            return objects.read(_beat_of(path, holder)).decode()
        except FileNotFoundError:
            return ""
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _this_process() -> Holder:
    pid = os.getpid()
    return Holder(
        host=platform.node(),
        machine=_machine(),
        pid=pid,
        ticks=_ticks(pid),
        since=datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        token=uuid.uuid4().hex,
    )


def _machine() -> str:
    """The boot and the process namespace: where both are equal, process ids can be compared."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _ticks(pid: int) -> str:
    """Start time of a process in clock ticks since the boot; "" when there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # the command, in brackets, may hold blanks and brackets; a zombie is dead
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
