"""Small messages between the processes of a run: JSON over the key-value store of JAX's
coordination service, which process 0 holds.

Beside the devices: no compilation, no waiting for what they compute, and a time limit, which their
collectives do not have. What is large and on the devices moves through `hosts.gather`. Each kind of
message has a name; the processes send the messages of one name in the same order, those of
different names in any (a background thread has names of its own). In a run of one process nothing
is sent.
"""

from __future__ import annotations

import collections
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

from qoq_jax.base import errors, exit_codes
from qoq_jax.base.errors import QoqError

LIMIT = 3600.0  # seconds to wait for a process; one that died is noticed before, by its heartbeat
LOOK = 2.0  # seconds between two looks whether a process has failed
_PIECE = 1 << 22  # most bytes of one value: gRPC has limits
_ROOT, _FAILED = "qoq", "qoq-failed/"
_T = TypeVar("_T")
_numbers: dict[str, Iterator[int]] = collections.defaultdict(itertools.count)


class PeerError(QoqError):
    """Another process of the run has failed, or does not answer.

    The exit code is that of the process that failed, so that a scheduler sees one reason, and of a
    silent one RETRY: its machine may be gone.
    """

    exit_code = exit_codes.RETRY


def exchange(name: str, value: Any, limit: float = LIMIT) -> list[Any]:
    """The values that all processes give under this name, by process index.

    Args:
      value: JSON; NaN and infinities are kept.
      limit: seconds to wait for the slowest.

    Raises:
      PeerError: a process has failed, or was not here in time.
    """
    if jax.process_count() == 1:
        return [value]
    number = next(_numbers[name])
    _send(_key(name, number, jax.process_index()), value)
    found = [_receive(_key(name, number, i), limit, i) for i in range(jax.process_count())]
    # All are here, so all have read the message before.
    if number:
        _client().key_value_delete(_key(name, number - 1, jax.process_index()))
    return found


def to_main(name: str, value: Any, limit: float = LIMIT) -> list[Any] | None:
    """The values of all processes on process 0, which alone reads them; None on the others."""
    if jax.process_count() == 1:
        return [value]
    number = next(_numbers[name])
    if jax.process_index():
        _send(_key(name, number, jax.process_index()), value)
        return None
    found = [value]
    for i in range(1, jax.process_count()):
        found.append(_receive(_key(name, number, i), limit, i))
        _client().key_value_delete(_key(name, number, i))
    return found


def from_main(name: str, make: Callable[[], _T], limit: float = LIMIT) -> _T:
    """What `make` returns (JSON) on process 0, which alone calls it, on all processes; a QoqError
    of it is raised on all.

    Raises:
      PeerError: process 0 has failed, or was not here in time.
    """
    if jax.process_count() == 1:
        return make()
    number = next(_numbers[name])
    key = _key(name, number, 0)
    if jax.process_index():
        said = _receive(key, limit, 0)
        if "error" in said:
            kind, *of_it = said["error"]
            raise _error(kind, *of_it)
        return said["value"]
    try:
        value = make()
    except QoqError as error:
        kind = type(error).__name__
        _send(key, {"error": [kind, error.what, error.where, error.hint]})
        raise
    _send(key, {"value": value})
    return value


def report_failure(code: int) -> None:
    """Tells the other processes that this one ends, and its exit code: whoever waits for it ends
    with the same one.
    """
    _send(f"{_FAILED}{process_index()}/", code)


def are_several() -> bool:
    """Whether the run has several processes. Unlike `jax.process_count` it starts no device."""
    return (_state().num_processes or 1) > 1


def process_index() -> int:
    """Which process of the run this is. Unlike `jax.process_index` it starts no device."""
    return _state().process_id or 0


def failure() -> tuple[int, int] | None:
    """(process, exit code) of another process that has told its failure, or None. Of several the
    one whose code is not RETRY: the others may have failed since it was gone.

    Raises:
      jax.errors.JaxRuntimeError: process 0 is gone.
    """
    client, found = _client(), []
    if client is None:  # JAX has left the run: this process is at its end
        return None
    for place, line in client.key_value_dir_get(_FAILED):
        process = int(place.removeprefix(_FAILED).partition("/")[0])
        if not place.endswith("/pieces") and process != _state().process_id:
            found.append((process, int(json.loads(line))))
    return min(found, key=lambda one: one[1] == exit_codes.RETRY, default=None)


def _error(kind: str, what: str, where: str | None, hint: str | None) -> QoqError:
    found = getattr(errors, kind, QoqError)
    return found(what, where=where, hint=hint)


def _key(name: str, number: int, index: int) -> str:
    return f"{_ROOT}/{name}/{number}/{index}/"


def _state() -> Any:
    """JAX's state of the distributed run, which has no public name; Orbax reads it so too."""
    from jax._src import distributed

    return distributed.global_state


def _client() -> Any:
    """The client of the coordination service."""
    return _state().client


def _send(key: str, value: Any) -> None:
    content = json.dumps(value).encode()
    pieces = range(0, max(len(content), 1), _PIECE)
    for number, first in enumerate(pieces):
        _client().key_value_set_bytes(f"{key}{number}", content[first : first + _PIECE])
    _client().key_value_set_bytes(f"{key}pieces", str(len(pieces)).encode())


def _receive(key: str, limit: float, index: int) -> Any:
    end = time.monotonic() + limit
    while True:
        try:
            count = int(_client().blocking_key_value_get_bytes(f"{key}pieces", int(LOOK * 1000)))
            break
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise _lost(index, str(error).partition("\n")[0]) from None
        if (found := failure()) is not None:
            failed, code = found
            error = PeerError(
                f"process {failed} has ended with exit code {code}",
                hint="its own output says more",
            )
            error.exit_code = code
            raise error
        if time.monotonic() > end:
            raise _lost(index, f"nothing from it for {limit:.0f} s")
    pieces = [_client().blocking_key_value_get_bytes(f"{key}{i}", 60_000) for i in range(count)]
    return json.loads(b"".join(pieces))


def _lost(index: int, reason: str) -> PeerError:
    return PeerError(
        f"process {index} of the run does not answer ({reason})",
        hint="see the output of that process; the same command resumes from the last checkpoint",
    )
