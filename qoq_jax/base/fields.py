"""What the fields of a config dataclass may hold, said in their types.

    algorithm: Literal["sft", "drpo"]      one of these
    steps: Positive[int]                   above 0
    gamma: AtMostOne[NotNegative[float]]   0 to 1

`train/config.py` reads them when it parses a config; a section with a rule of its own has a method
`check`, which is called after that.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

from qoq_jax.base.errors import ConfigError, did_you_mean

Number = TypeVar("Number", int, float)


@dataclasses.dataclass(frozen=True)
class Bound:
    """A rule for a number, and how an error says it."""

    holds: Callable[[float], bool]
    text: str


def _above_zero(value: float) -> bool:
    return value > 0


def _from_zero(value: float) -> bool:
    return value >= 0


def _to_one(value: float) -> bool:
    return value <= 1


Positive = Annotated[Number, Bound(_above_zero, "must be positive")]
NotNegative = Annotated[Number, Bound(_from_zero, "must not be negative")]
AtMostOne = Annotated[Number, Bound(_to_one, "must be at most 1")]


def check_choice(where: str, value: object, allowed: Iterable[object]) -> None:
    """Raises ConfigError, with the nearest choice, when the value is none of those allowed."""
    allowed = list(allowed)
    if value not in allowed:
        raise ConfigError(
            f"{where} = {value!r} is none of {', '.join(map(str, allowed))}",
            hint=did_you_mean(value, allowed, cutoff=0.5),
        )


def check_bounds(where: str, value: Any, kind: Any) -> None:
    """Raises ConfigError when a number breaks a rule of its annotated type."""
    for bound in getattr(kind, "__metadata__", ()):
        if isinstance(bound, Bound) and not bound.holds(value):
            raise ConfigError(f"{where} = {value} {bound.text}")


def plain(kind: Any) -> Any:
    """The type without its rules."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
