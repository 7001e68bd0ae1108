"""Hours and money of a run, from the least time of its steps, a stated utilisation and prices that
the user gives: none stand here, since they differ by region, contract and day.

A file of prices is JSON, {"currency": "USD", "chip_hour": {"v5e": 1.2, "h100": 3.0}}: the price of
one chip (or GPU) for an hour, by the names of devices.json.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from qoq_jax.base import files
from qoq_jax.base.errors import ConfigError, DataError, did_you_mean
from qoq_jax.plan.devices import table
from qoq_jax.plan.instant import StagePlan


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of all steps of a run; without start-up, compiling, evaluation, checkpoints and restarts.

    Attributes:
      hours: of the whole topology.
      chip_hours: hours x chips.
      price: of them, or None without prices. currency: of the price.
      mfu: the utilisation that the hours are for.
    """

    hours: float
    chip_hours: float
    price: float | None
    currency: str
    mfu: float


@dataclasses.dataclass(frozen=True)
class Prices:
    """What a chip costs for an hour, by device."""

    currency: str
    chip_hour: dict[str, float]


def read_prices(path: str) -> Prices:
    """A file of prices.

    Raises:
      ConfigError: it cannot be read, or is not of the form above.
    """
    hint = 'write {"currency": "USD", "chip_hour": {"v5e": 1.2}}'
    try:
        content: Any = files.read_json(path)
    except (OSError, DataError, ValueError) as error:
        raise ConfigError(f"no prices can be read ({error})", where=path, hint=hint) from error
    prices = content.get("chip_hour") if isinstance(content, dict) else None
    if not isinstance(prices, dict) or not prices:
        raise ConfigError("holds no prices", where=path, hint=hint)
    for name, price in prices.items():
        if name not in table():
            raise ConfigError(
                f"unknown device {name!r}", where=path, hint=did_you_mean(name, table())
            )
        if isinstance(price, bool) or not isinstance(price, int | float) or price < 0:
            raise ConfigError(f"chip_hour of {name} = {price!r}", where=path, hint=hint)
    return Prices(str(content.get("currency", "")), {k: float(v) for k, v in prices.items()})


def price_of(device: str, prices: Prices) -> float:
    """The price of a chip of a device for an hour.

    Raises:
      ConfigError: there is none.
    """
    if device not in prices.chip_hour:
        raise ConfigError(
            f"no price of {device}", hint=f"add it to chip_hour: {', '.join(prices.chip_hour)}"
        )
    return prices.chip_hour[device]


def step_seconds(plan: StagePlan, mfu: float) -> float:
    """Seconds of a step where its products reach `mfu` of the peak: of each program, its model
    FLOPs at that speed, or its bound where that is slower. Decoding is bound by memory: its bound
    is stretched by the same share.
    """
    topology, total = plan.case.topology, 0.0
    for one in plan.programs:
        speed = topology.size * topology.device.flops * mfu
        slowed = one.bound / mfu if one.bound_by != "compute" else one.bound
        total += one.calls * max(one.model_flops / speed, slowed)
    return total


def cost(plans: Sequence[StagePlan], mfu: float, prices: Prices | None) -> Cost:
    """Of all steps of a run.

    Raises:
      ConfigError: the prices have none for the device.
    """
    topology = plans[0].case.topology
    hours = sum(one.steps * step_seconds(one, mfu) for one in plans) / 3600
    price, currency = None, ""
    if prices is not None:
        one = price_of(topology.device.name, prices)
        price, currency = hours * topology.chips * one, prices.currency
    return Cost(hours, hours * topology.chips, price, currency, mfu)
