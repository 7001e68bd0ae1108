"""Exit codes of every command, in one place.

Schedulers decide by them what becomes of a job: xpk and JobSet policies restart on 42 and on 127 to
255, and leave 1 and 2 alone, which come again with the same input.
"""

from __future__ import annotations

import errno

DONE = 0
FAILED = 1  # a run or a data set failed, and would fail again
MISTAKE = 2  # in the config or the arguments
RETRY = 42  # the machine's fault: stuck, a peer lost, storage that did not answer
INTERRUPTED = 130  # Ctrl-C
READER_GONE = 141  # SIGPIPE: nobody reads the output any more, as behind `| head`
PREEMPTED = 143  # SIGTERM; what could be saved is saved

# Storage and networks that may answer the next time.
TRANSIENT = (
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.ECONNREFUSED,
    errno.ECONNABORTED,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EREMOTEIO,
)

# The same as TensorStore and gRPC write them into messages.
_WORDS = (
    "Input/output error",
    "Stale file handle",
    "timed out",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
)


# ... and of HTTP: timeouts, throttling, a server that is in trouble.
_STATUSES = ("408", "429", "500", "502", "503", "504")


def is_transient(error: BaseException) -> bool:
    """Whether storage or the network failed in a way that may pass; also where a library has
    wrapped the exception that says so.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in TRANSIENT
    if isinstance(error, (TimeoutError, ConnectionError)):
        return True
    if str(getattr(error, "code", "")) in _STATUSES:  # urllib's, gcsfs's
        return True
    if any(word in str(error) for word in _WORDS):
        return True
    return error.__cause__ is not None and is_transient(error.__cause__)


def reason(error: BaseException) -> str:
    """What an exception says in one line: an OSError may have no text of the system, and any
    exception none at all.
    """
    said = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return said or type(error).__name__
