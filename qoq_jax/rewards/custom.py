"""A user's own reward, named in the config by a dotted path:

    config.rl.reward.custom, config.rl.reward.custom_weight = "my_package.rewards:short_reasoning",
    0.2

    def short_reasoning(text: str, meta: SampleMeta) -> float:
        return 1.0 if len(text) < 400 else 0.0

The function gets one response (untrusted text) and the sample's meta (data/sample.py), and
returns a number in [0, 1]. It must be pure: same arguments, same result, in any process.
`check_reward_function` tries that out; call it from your own tests.
"""

from __future__ import annotations

import functools
import importlib
import math
import time
from collections.abc import Iterable
from typing import Protocol

from qoq_jax.base.errors import ConfigError, QoqError
from qoq_jax.data.meta import SampleMeta

# What policies do write: nothing, half a response, other scripts, one character for ever, brackets
# for ever.
HOSTILE_TEXTS = (
    "",
    " \n",
    "\\boxed{",
    "\\boxed{}",
    "```json\n[{",
    "\x00\ud7ff\u202e",
    "a" * 65536,
    "[" * 65536,
    '{"a":' * 9000,
)


class RewardFunction(Protocol):
    """The signature."""

    def __call__(self, text: str, meta: SampleMeta) -> float: ...


@functools.cache
def load(path: str) -> RewardFunction:
    """The function behind "package.module:function".

    Raises:
      ConfigError: it cannot be imported or called.
    """
    module_name, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"rl.reward.custom = {path!r}: {error}",
            hint="write package.module:function, of a package that is installed or on PYTHONPATH",
        ) from None
    if not callable(function):
        raise ConfigError(
            f"rl.reward.custom = {path!r} is a {type(function).__name__}", hint="name a function"
        )
    return function


def call(path: str, text: str, meta: SampleMeta) -> float:
    """The user's reward of one response.

    Raises:
      QoqError: it raises, or returns something else than a number in [0, 1].
    """
    try:
        value = load(path)(text, meta)
    except QoqError:
        raise
    # sys.exit(0) would end the training as if it were done
    except (Exception, SystemExit) as error:
        raise QoqError(
            f"the reward function raised {type(error).__name__}: {error}",
            where=f"{path}, sample {meta.id!r}",
            hint="it must give a number for any text; see rewards/custom.py check_reward_function",
        ) from error
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or not 0 <= value <= 1
    ):
        raise QoqError(
            f"the reward function returned {value!r}",
            where=f"{path}, sample {meta.id!r}",
            hint="return a float in [0, 1]",
        )
    return float(value)


def check_reward_function(
    path: str, metas: Iterable[SampleMeta], texts: Iterable[str] = (), seconds: float = 0.01
) -> None:
    """For tests: calls a user's reward on `texts` and on hostile ones for each meta.

    Raises:
      QoqError: it raises, returns no number in [0, 1], gives two results for the same arguments, or
        takes longer than `seconds`.
    """
    for meta in metas:
        for text in (*texts, *HOSTILE_TEXTS):
            where = f"{path}, text {text[:20]!r} of {len(text)} characters"
            # The best of three: the first call may import, and the machine may be busy.
            times, values = [], set()
            for _ in range(3):
                began = time.perf_counter()
                values.add(call(path, text, meta))
                times.append(time.perf_counter() - began)
            if len(values) > 1:
                raise QoqError(
                    f"the reward function gave {sorted(values)} for the same arguments",
                    where=where,
                    hint="make it pure",
                )
            if min(times) > seconds:
                raise QoqError(
                    f"the reward function took {min(times):.3f} s",
                    where=where,
                    hint=f"bring it under {seconds} s",
                )
