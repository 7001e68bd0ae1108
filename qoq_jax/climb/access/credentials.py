"""Logins: from the environment, netrc or a client's own file, and never shown.

A secret is held in an object that prints as ***, reaches nothing but a header of a request to the
one host that it is for, and is part of no error, log line, manifest or command line.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import netrc
import os
import pathlib
import stat
from collections.abc import Callable, Sequence

from qoq_jax.base.errors import ConfigError


class Secret:
    """A text that is not printed."""

    __slots__ = ("_text",)

    def __init__(self, text: str):
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> tuple:
        raise TypeError("a secret is not written anywhere")


@dataclasses.dataclass(frozen=True)
class Login:
    """What to send to a host as the header Authorization, and where it was found."""

    host: str
    header: Secret
    found: str


@dataclasses.dataclass(frozen=True)
class Place:
    """One place where a login may be.

    Attributes:
      text: for the user.
      find: looks there; None when there is nothing.
    """

    text: str
    find: Callable[[], Login | None]


def first(places: Sequence[Place]) -> Login | None:
    """The login of the first place that has one.

    Raises:
      ConfigError: a place has half a login, cannot be read, or can be read by others.
    """
    for place in places:
        login = place.find()
        if login is not None:
            return login
    return None


def basic(host: str, user: str, password: str, found: str) -> Login:
    """HTTP basic authentication (RFC 7617)."""
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    return Login(host, Secret(f"Basic {pair}"), found)


def bearer(host: str, token: str, found: str) -> Login:
    """A bearer token (RFC 6750)."""
    return Login(host, Secret(f"Bearer {token}"), found)


def environment(host: str, user: str, password: str) -> Place:
    """Two environment variables, by name."""

    def find() -> Login | None:
        values = [os.environ.get(name, "") for name in (user, password)]
        if not any(values):
            return None
        if not all(values):
            missing = user if values[1] else password
            raise ConfigError(
                f"{missing} is not set, but its partner is", hint=f"set {user} and {password}"
            )
        return basic(host, *values, found="the environment")

    return Place(f"environment variables {user} and {password}", find)


def environment_token(host: str, name: str) -> Place:
    """One environment variable with a token."""

    def find() -> Login | None:
        token = os.environ.get(name, "").strip()
        return bearer(host, token, "the environment") if token else None

    return Place(f"environment variable {name}", find)


def netrc_entry(host: str) -> Place:
    """`machine HOST login USER password PASSWORD` in ~/.netrc, or the file named by NETRC.

    An entry `default` is not used: it would send one host's password to another.
    """
    path = pathlib.Path(os.environ.get("NETRC") or pathlib.Path.home() / ".netrc")

    def find() -> Login | None:
        if not path.is_file():
            return None
        try:
            entry = netrc.netrc(str(path)).hosts.get(host)
        except (netrc.NetrcParseError, UnicodeDecodeError) as error:
            # The parser's message may quote the password.
            line = getattr(error, "lineno", None)
            raise ConfigError(
                "cannot be parsed" + (f" (line {line})" if line else ""), where=str(path)
            ) from None
        except OSError as error:
            raise ConfigError(f"cannot be read ({error.strerror})", where=str(path)) from None
        if entry is None or not entry[2]:
            return None
        _check_private(path)
        return basic(host, entry[0], entry[2], str(path))

    return Place(f"{path}, entry `machine {host}`", find)


def kaggle_file(host: str) -> Place:
    """kaggle.json, {"username": ..., "key": ...}, in ~/.kaggle or the folder KAGGLE_CONFIG_DIR."""
    folder = pathlib.Path(os.environ.get("KAGGLE_CONFIG_DIR") or pathlib.Path.home() / ".kaggle")
    path = folder / "kaggle.json"

    def find() -> Login | None:
        if not path.is_file():
            return None
        _check_private(path)
        try:
            content = json.loads(path.read_bytes())
            user, key = content["username"], content["key"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(
                "is not the file of Kaggle's settings page",
                where=str(path),
                hint="make a new one at https://www.kaggle.com/settings",
            ) from None
        return basic(host, str(user), str(key), str(path))

    return Place(str(path), find)


def token_file(host: str, path: pathlib.Path) -> Place:
    """A file with nothing but a token."""

    def find() -> Login | None:
        if not path.is_file():
            return None
        _check_private(path)
        token = path.read_text(encoding="utf-8", errors="replace").strip()
        return bearer(host, token, str(path)) if token else None

    return Place(str(path), find)


def _check_private(path: pathlib.Path) -> None:
    """Raises ConfigError when others than the owner may read the file."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(
            f"others may read this file with a password (mode {mode:04o})",
            where=str(path),
            hint=f"chmod 600 {path}",
        )
