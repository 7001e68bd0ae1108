"""Requests to a host: redirects, the login for that host alone, waiting, trying again.

The client is `requests`, which tensorflow-datasets brings: it takes proxies and certificates from
the environment. Its own netrc look-up, redirects and retries are off: a login here is sent to one
host only and its file must be private; a redirect to another host drops it; and a host that says
how long to wait is left alone for that long by all threads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import email.utils
import http.client
import ipaddress
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from qoq_jax.base import files
from qoq_jax.base.errors import ConfigError
from qoq_jax.climb.access.access import Site
from qoq_jax.climb.access.credentials import Login
from qoq_jax.climb.access.errors import DownloadError, LoginError, moved

AGENT = "qoq_jax/0.1.0"
_MOST_REDIRECTS = 10
_MOST_TEXT = 1 << 30  # bytes of a listing; MIMIC-CXR-JPG's is 53 MB
_AGAIN = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
_LOGIN_PAGE = re.compile(r"/(log-?in|sign-?in|accounts/login)(/|$)", re.I)
T = TypeVar("T")
# At DEBUG it writes addresses, whose queries may be signatures.
logging.getLogger("urllib3.connectionpool").setLevel(logging.WARNING)


@dataclasses.dataclass(frozen=True)
class Policy:
    """How patient to be.

    Attributes:
      timeout: seconds to connect, and between two pieces of a body.
      slowest: bytes per second, over `timeout` seconds, below which to connect anew.
      attempts: failures one after the other, without `progress` bytes in between, until it is an
        error.
      progress: bytes after which failures are counted from 0 again.
      first_wait, longest_wait: seconds between attempts, doubled each time, times 0.5 to 1.
      longest_hold: seconds that a host may ask to wait; more is an error.
    """

    timeout: float = 60.0
    slowest: float = 128.0
    attempts: int = 8
    progress: int = 1 << 20
    first_wait: float = 1.0
    longest_wait: float = 120.0
    longest_hold: float = 900.0


class Again(Exception):
    """An attempt failed in a way that another may not.

    Args:
      reason: for the user.
      wait: seconds that the host asks for; None when it does not say.
    """

    def __init__(self, reason: str, wait: float | None = None):
        self.reason, self.wait = reason, wait
        super().__init__(reason)


class Stopped(Exception):
    """Ctrl-C, or another file failed for good."""


def shown(url: str) -> str:
    """An address without its query, which may be a signature, and without a login."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Client:
    """Requests to one site, from any number of threads."""

    def __init__(self, site: Site, login: Login | None = None, policy: Policy | None = None):
        self.site, self.login, self.policy = site, login, policy or Policy()
        self.stop = threading.Event()
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()
        self._free_at: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for session in self._sessions:
            session.close()

    # -------------------------------------------------------------------------------- one request

    @contextlib.contextmanager
    def open(
        self, url: str, what: str, headers: Mapping[str, str] | None = None, **options: Any
    ) -> Iterator[requests.Response]:
        """The response to one GET (or `method`) after redirects, its body not yet read.

        Args:
          what: the file, for errors.
          options: of requests.Session.request: json, method.

        Raises:
          Again: try again.
          DownloadError: the host refuses.
        """
        _check(url, what)
        method = options.pop("method", "GET")
        for _ in range(_MOST_REDIRECTS):
            host = urlsplit(url).netloc
            self._wait_for(host)
            sent = {
                "User-Agent": AGENT,
                # Ranges and hashes are of the bytes as they are.
                "Accept-Encoding": "identity",
                **(headers or {}),
            }
            if self.login is not None and host == self.login.host and _is_private(url):
                sent["Authorization"] = self.login.header.reveal()
            with _network(what):
                response = self._session().request(
                    method,
                    url,
                    headers=sent,
                    stream=True,
                    timeout=self.policy.timeout,
                    allow_redirects=False,
                    auth=_leave_as_it_is,
                    **options,
                )
            with contextlib.closing(response):
                if response.status_code not in (301, 302, 303, 307, 308):
                    self._judge(response, host, what)
                    yield response
                    return
                url = self._follow(url, response.headers.get("Location", ""), what)
        raise DownloadError(f"more than {_MOST_REDIRECTS} redirects", where=what)

    def _follow(self, url: str, to: str, what: str) -> str:
        new = urljoin(url, to)
        if _LOGIN_PAGE.search(urlsplit(new).path):
            raise self._refused(what, f"{urlsplit(url).netloc} asks for a login", 401)
        if urlsplit(url).scheme == "https" and urlsplit(new).scheme != "https":
            raise DownloadError(f"is redirected to {shown(new)}, without encryption", where=what)
        _check(new, what)
        return new

    def _judge(self, response: requests.Response, host: str, what: str) -> None:
        """Raises for a status that is not a body."""
        status = response.status_code
        if status in (200, 206, 416):
            return
        wait = _retry_after(response.headers.get("Retry-After"))
        limited = response.headers.get("X-RateLimit-Remaining") == "0"
        if status in _AGAIN or (status == 403 and (wait is not None or limited)):
            if wait is None and limited:
                wait = _until(response.headers.get("X-RateLimit-Reset"))
            if wait is not None:
                self._hold(host, wait, what)
            raise Again(f"{host} answers {status} {http.client.responses.get(status, '')}", wait)
        if status in (401, 403):
            raise self._refused(what, f"{host} refuses it ({status})", status)
        reason = http.client.responses.get(status, "an unknown status")
        raise DownloadError(
            f"{host} answers {status} {reason} for {urlsplit(response.url).path}",
            where=what,
            hint=self.site.hints.get(status),
        )

    def _refused(self, what: str, reason: str, status: int) -> LoginError:
        hint = self.site.hints.get(status)
        if self.login is None and self.site.places:
            reason += "; no login was found"
            hint = "; ".join(filter(None, (hint, where_logins_are(self.site))))
        elif self.login is not None:
            reason += f"; the login is from {self.login.found}"
        return LoginError(reason, where=what, hint=hint)

    def _session(self) -> requests.Session:
        """One a thread: it keeps connections open, and cookies of the host that set them."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            with self._lock:
                self._sessions.append(self._local.session)
        return self._local.session

    # --------------------------------------------------------------------------- again and again

    def attempts(self, what: str, one: Callable[[], T], received: Callable[[], int]) -> T:
        """Calls `one` until it does not raise Again.

        Args:
          what: the file, for errors.
          received: its bytes so far.

        Raises:
          DownloadError: it failed too often.
          Stopped: see there.
        """
        failed, before = 0, received()
        while True:
            if self.stop.is_set():
                raise Stopped
            try:
                return one()
            except Again as again:
                if received() - before >= self.policy.progress:
                    failed, before = 0, received()
                failed += 1
                if failed >= self.policy.attempts:
                    raise DownloadError(
                        f"{again.reason}, {failed} times",
                        where=what,
                        hint="the same command continues later",
                    ) from None
                if again.wait is None:
                    longest = self.policy.first_wait * 2 ** (failed - 1)
                    self._sleep(min(longest, self.policy.longest_wait) * random.uniform(0.5, 1))

    def text(self, url: str, what: str, **options: Any) -> tuple[bytes, Mapping[str, str]]:
        """A whole body, for listings, and its headers."""

        def one() -> tuple[bytes, Mapping[str, str]]:
            body = bytearray()
            with self.open(url, what, **dict(options)) as response:
                for piece in self.pieces(response, what):
                    body += piece
                    if len(body) > _MOST_TEXT:
                        raise DownloadError(f"is over {_MOST_TEXT >> 30} GiB", where=what)
                return bytes(body), response.headers

        return self.attempts(what, one, lambda: 0)

    def json(self, url: str, what: str, **options: Any) -> Any:
        """A JSON body."""
        body, _ = self.text(url, what, **options)
        return parsed(body, what)

    def pieces(self, response: requests.Response, what: str) -> Iterator[bytes]:
        """The bytes of a body as they come. urllib3 counts them against Content-Length.

        Raises:
          Again: too few, too slow, or the connection ended.
        """
        got, since, at = 0, 0, time.monotonic()
        while True:
            if self.stop.is_set():
                raise Stopped
            with _network(what):
                piece = response.raw.read1(1 << 20, decode_content=False)
            if not piece:
                break
            got += len(piece)
            yield piece
            now = time.monotonic()
            if now - at > self.policy.timeout:
                if got - since < self.policy.slowest * (now - at):
                    raise Again(f"fewer than {self.policy.slowest:.0f} bytes a second came")
                since, at = got, now

    # ------------------------------------------------------------------------------------ waiting

    def _hold(self, host: str, seconds: float, what: str) -> None:
        if seconds > self.policy.longest_hold:
            raise DownloadError(
                f"{host} asks to wait {seconds / 60:.0f} minutes",
                where=what,
                hint="the same command continues later",
            )
        with self._lock:
            free = time.monotonic() + seconds
            self._free_at[host] = max(free, self._free_at.get(host, 0.0))

    def _wait_for(self, host: str) -> None:
        while (left := self._free_at.get(host, 0.0) - time.monotonic()) > 0:
            self._sleep(left)

    def _sleep(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise Stopped


def parsed(body: bytes, what: str) -> Any:
    """JSON of a host.

    Raises:
      DownloadError: it is something else, such as a page for people.
    """
    try:
        return files.parse_json(body)
    except ValueError:
        raise moved("the host's answer is not JSON", what) from None


def where_logins_are(site: Site) -> str:
    """A hint that names the places."""
    return "give a login by " + ", or ".join(place.text for place in site.places)


@contextlib.contextmanager
def _network(what: str) -> Iterator[None]:
    """Faults of the network become Again, without the text of other libraries: it has addresses
    with their signatures.
    """
    try:
        yield
    except requests.exceptions.SSLError:
        raise DownloadError(
            "the host's certificate cannot be verified",
            where=what,
            hint="behind a proxy that opens connections, set REQUESTS_CA_BUNDLE",
        ) from None
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError):
        raise Again("the host does not answer in time") from None
    except requests.exceptions.ProxyError:
        raise Again("the proxy cannot be reached") from None
    except (
        requests.exceptions.ConnectionError,
        requests.exceptions.ChunkedEncodingError,
        urllib3.exceptions.HTTPError,
        http.client.HTTPException,
        ConnectionError,
    ) as error:
        raise Again(f"the connection failed ({_reason(error)})") from None
    except (requests.exceptions.RequestException, UnicodeError) as error:
        raise DownloadError(f"cannot be asked for ({type(error).__name__})", where=what) from None


def _reason(error: BaseException) -> str:
    """The system's own words at the bottom of an exception, or the name of its class."""
    for _ in range(10):
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        below = [one for one in error.args if isinstance(one, BaseException)]
        below += [one for one in (getattr(error, "reason", None), error.__cause__) if one]
        deeper = next((one for one in below if isinstance(one, BaseException)), None)
        if deeper is None:
            break
        error = deeper
    name = type(error).__name__
    return "it ended early" if name == "IncompleteRead" else name


def _check(url: str, what: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise DownloadError(f"is at {parts.scheme or 'no'} address, not https", where=what)
    if "@" in parts.netloc:
        raise ConfigError("has a login in its address", where=what, hint="put it into ~/.netrc")


def _is_private(url: str) -> bool:
    """Whether others cannot read along: encryption, or this machine itself."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _leave_as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """In place of `requests` looking into netrc."""
    return request


def _retry_after(value: str | None) -> float | None:
    """Seconds of a header Retry-After (RFC 9110 section 10.2.3): a number or a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        at = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    now = datetime.datetime.now(datetime.UTC)
    return max(0.0, (at.replace(tzinfo=at.tzinfo or datetime.UTC) - now).total_seconds())


def _until(value: str | None) -> float | None:
    """Seconds until a time in seconds since 1970, as GitHub and Zenodo say it."""
    try:
        return max(0.0, float(value or "") - time.time())
    except ValueError:
        return None
