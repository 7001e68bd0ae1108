"""Requests to a vLLM server: JSON over HTTP, with errors that hold nothing of what was sent.

A server may repeat a prompt in its error, and prompts are of patients: of an error only the status
and the name of its type are told. An API key comes from the environment and goes to no log.
"""

from __future__ import annotations

import os
import re
import time
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from qoq_jax.base.errors import ConfigError, QoqError, RetryError
from qoq_jax.sampling.config import RolloutConfig

API_KEY = "QOQ_VLLM_API_KEY"  # variable of the environment, for a server with --api-key
WAITS = (0.5, 2.0, 5.0)  # seconds before each repeat of a request whose connection was dropped
CONNECT = 30.0  # most seconds to open a connection


class Client:
    """The addresses of a server. `get` and `post` may be called from several threads.

    Args:
      config: section rollout.

    Raises:
      ConfigError: the API key is none that HTTP can carry.
    """

    def __init__(self, config: RolloutConfig):
        self.url = config.url.rstrip("/").removesuffix("/v1")
        self._timeout = config.timeout
        self._session = requests.Session()
        # no proxy and no password of the environment: the address is all that is asked
        self._session.trust_env = False
        adapter = HTTPAdapter(pool_maxsize=config.connections)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)
        if key := os.environ.get(API_KEY, "").strip():
            if not re.fullmatch(r"[!-~]+", key):
                raise ConfigError(f"{API_KEY} has characters that an API key cannot have")
            self._session.headers["Authorization"] = f"Bearer {key}"

    def close(self) -> None:
        """Ends the connections."""
        self._session.close()

    def get(self, path: str) -> Any:
        """The JSON at a path; None where it is empty. Raises: see `post`."""
        return self._call("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        """The JSON that answers `body`; None where it is empty.

        Raises:
          RetryError: the server cannot be reached, is overloaded (429), failed (5xx), or has not
            answered within rollout.timeout, repeats after dropped connections included.
          ConfigError: it takes no new weights, or not this API key. QoqError: it refuses.
        """
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: Any) -> Any:
        address = f"{self.url}/{path}"
        answer = self._send(method, address, body)
        self._check_status(answer, path, address)
        if not answer.content.strip():
            return None
        try:
            return answer.json()
        except ValueError:
            raise QoqError(
                "the answer is not JSON", where=address, hint="is this address that of vLLM?"
            ) from None

    def _send(self, method: str, address: str, body: Any) -> requests.Response:
        end = time.monotonic() + self._timeout
        for wait in (*WAITS, None):
            left = max(end - time.monotonic(), 1e-3)
            try:
                return self._session.request(
                    method,
                    address,
                    json=body,
                    timeout=(min(left, CONNECT), left),
                    allow_redirects=False,
                )
            except requests.ReadTimeout:
                raise RetryError(
                    f"the vLLM server has not answered within {self._timeout:g} s",
                    where=address,
                    hint="raise rollout.timeout (and faults.watchdog above it), or ask for fewer "
                    "responses at a time with rollout.connections",
                ) from None
            except requests.RequestException as error:
                dropped = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
                late = wait is None or time.monotonic() + wait >= end
                if late or not isinstance(error, dropped):
                    raise RetryError(
                        f"the vLLM server cannot be reached ({type(error).__name__})",
                        where=address,
                        hint="start it, or wait until it has loaded its model",
                    ) from None
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _check_status(self, answer: requests.Response, path: str, address: str) -> None:
        status = answer.status_code
        if 200 <= status < 300:
            return
        if status == 404 and not path.startswith("v1/"):
            raise ConfigError(
                "the vLLM server does not take new weights",
                where=address,
                hint="start it with VLLM_SERVER_DEV_MODE=1 in its environment",
            )
        if status in (401, 403):
            raise ConfigError(
                f"the vLLM server says {status}: it does not take this API key",
                where=address,
                hint=f"set {API_KEY} in the environment to the server's --api-key",
            )
        kind = QoqError
        hint = "the log of the server says more; it may hold text of prompts"
        if status == 429 or status >= 500:
            kind = RetryError
        elif status < 400:
            hint = "set rollout.url to the address that it sends to; redirects are not followed"
        raise kind(f"the vLLM server says {status}{_error_type(answer)}", where=address, hint=hint)


def _error_type(answer: requests.Response) -> str:
    """ " (BadRequestError)": the type of an error in vLLM's form, where it is one word; else ""."""
    try:
        found = answer.json()
    except ValueError:
        return ""
    inner = found.get("error", found) if isinstance(found, dict) else None
    name = inner.get("type") if isinstance(inner, dict) else None
    return f" ({name})" if isinstance(name, str) and re.fullmatch(r"[A-Za-z_]{1,40}", name) else ""
