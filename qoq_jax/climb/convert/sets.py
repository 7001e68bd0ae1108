"""Which data sets have a converter, by their name in the catalogue."""

from __future__ import annotations

from qoq_jax.base.errors import ConfigError, did_you_mean
from qoq_jax.climb.convert import (
    bcss,
    chest_xray,
    ct,
    ecg,
    echonet,
    endoscopy,
    folders,
    lndb,
    mammography,
    mimic_iv_ecg,
    photographs,
    ultrasound,
)
from qoq_jax.climb.convert.example import Converter
from qoq_jax.climb.mimic import tasks as mimic

MODULES = (
    ecg,
    mimic_iv_ecg,
    chest_xray,
    mammography,
    photographs,
    lndb,
    ct,
    ultrasound,
    echonet,
    folders,
    bcss,
    endoscopy,
)
CONVERTERS: dict[str, Converter] = {
    converter.name: converter for module in MODULES for converter in module.CONVERTERS
}


def get(name: str) -> Converter:
    """The converter of a data set.

    Raises:
      ConfigError: it has none.
    """
    if name not in CONVERTERS:
        # MIMIC-IV's rows come from climb/mimic/convert.py.
        names = (*CONVERTERS, mimic.NAME, *mimic.DATASETS)
        raise ConfigError(
            f"no converter for {name!r}",
            hint=did_you_mean(name, names, f"there are {', '.join(names)}"),
        )
    return CONVERTERS[name]
