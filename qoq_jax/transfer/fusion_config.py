"""The config of a comparison of fusions on MIMIC-IV: RQ3 of CLIMB."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Literal

import ml_collections

from qoq_jax.base.errors import ConfigError
from qoq_jax.base.fields import NotNegative, Positive
from qoq_jax.models.encoders import registry
from qoq_jax.train import config as train_config
from qoq_jax.transfer.fusion_fit import FitConfig

KIND = "fusion"  # KIND of a config file whose configs are of this module


@dataclasses.dataclass(frozen=True)
class FusionDataConfig:
    """The admissions."""

    # folder that `qoq data convert mimic-iv` has written; "" = made-up patients below root
    mimic: str = ""
    root: str = "data_cache"  # folder for generated data sets
    patients: Positive[int] = 2000  # made-up ones
    with_media: NotNegative[int] = 1200  # of them, those with ECGs and X-rays
    data_seed: int = 0


@dataclasses.dataclass(frozen=True)
class PretrainedConfig:
    """The frozen encoder of a modality, and the weights that it is compared with random ones by."""

    name: str = ""  # of models/encoders/registry.py; "" = the modality is left out
    # workdir of a run of configs/climb_multitask.py, or a safetensors file; "climb-mini" = the
    # ECG-JEPA weights that come with the package; "" = only random weights
    weights: str = ""


@dataclasses.dataclass(frozen=True)
class FusionRunConfig:
    """Tasks x fusions x weights of the encoders, each with several seeds."""

    workdir: str = "runs/climb_fusion"
    tasks: tuple[Literal["los", "ihm"], ...] = ("los", "ihm")
    methods: tuple[Literal["late", "concat", "attention"], ...] = ("late", "concat", "attention")
    data: FusionDataConfig = field(default_factory=FusionDataConfig)
    ecg: PretrainedConfig = field(default_factory=lambda: PretrainedConfig("ecg_jepa_nano"))
    xray: PretrainedConfig = field(default_factory=PretrainedConfig)
    # tokens per modality that cross-attention sees: means of neighbours where there are more
    tokens: Positive[int] = 16
    width: Positive[int] = 32  # of a fusion; a multiple of 4 heads
    fit: FitConfig = field(default_factory=FitConfig)
    seeds: Positive[int] = 5  # of each fusion, and of random encoders
    batch: Positive[int] = 32  # samples that an encoder takes at once

    def check(self) -> None:
        """Raises ConfigError for what cannot be compared."""
        for section, kind in (("ecg", "ecg"), ("xray", "image")):
            name = getattr(self, section).name
            if name and registry.get(name).kind != kind:
                raise ConfigError(
                    f"{section}.name = {name!r} reads {registry.get(name).kind}",
                    hint=f"name an encoder of kind {kind}",
                )
        for name in ("tasks", "methods"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty", hint="name one at least")
        if min(self.fit.rates, default=-1.0) < 0:
            raise ConfigError(f"fit.rates = {self.fit.rates}", hint="one at least, none below 0")
        if self.width % 4:
            raise ConfigError(f"width = {self.width}", hint="a multiple of 4, the heads")


def default() -> ml_collections.ConfigDict:
    """The defaults as a ConfigDict; config files start from it and change what differs."""
    return train_config.to_config_dict(FusionRunConfig())


def parse(config: ml_collections.ConfigDict | dict) -> FusionRunConfig:
    """ConfigDict -> frozen config.

    Raises:
      ConfigError: an unknown key, a wrong type, or a value that makes no sense.
    """
    parsed = train_config.parse_as(FusionRunConfig, config)
    parsed.check()
    return parsed
