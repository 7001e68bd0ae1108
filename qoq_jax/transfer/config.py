"""The config of a run of this room: one encoder on the labels of data sets."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Literal

import ml_collections

from qoq_jax.base.errors import ConfigError
from qoq_jax.base.fields import NotNegative, Positive
from qoq_jax.data import readers
from qoq_jax.models.encoders import registry
from qoq_jax.models.encoders.encoder import Encoder
from qoq_jax.parallel.mesh import MeshConfig
from qoq_jax.rl.config import Schedule
from qoq_jax.train import config as train_config
from qoq_jax.train.sections import (
    CheckpointConfig,
    FaultsConfig,
    LogConfig,
    OptimizerConfig,
    ProfileConfig,
)

KIND = "transfer"  # KIND of a config file whose configs are of this module


@dataclasses.dataclass(frozen=True)
class TransferDataConfig:
    """Where labelled samples come from. Sets of another kind than the encoder's are left alone."""

    root: str = "data_cache"  # folder for generated and fetched data sets
    mini_rows: NotNegative[int] = 3000  # training rows of climb-mini; 0 = none
    mini_seed: int = 0
    # climb (CT over half of the rows), climb_without_rspect (chest X-rays) or balanced
    mini_imbalance: Literal["climb", "climb_without_rspect", "balanced"] = "climb"
    real: bool = False  # add the real samples of climb/samples/fetch.py when they can be fetched
    # further data sets: folders with train/validation/test.jsonl in the CLIMB-QA schema, or
    # tfds:NAME@DIR for one that tensorflow-datasets has prepared in DIR
    extra: tuple[str, ...] = ()
    arrays: tuple[str, ...] = ()  # folders that `qoq data arrays` has written
    # rows and columns that pictures are resized to; 0 = what the encoder's weights were trained at
    image_size: NotNegative[int] = 0
    frames: Positive[int] = 4  # slices of a volume, or frames of a video, evenly spaced
    cache: bool = False  # keep decoded samples in memory: for some thousand small ones
    # a bad sample: "raise", or "skip" (its place in the batch stays empty, and it is counted)
    on_error: Literal["raise", "skip"] = "raise"
    max_bad_fraction: float = 0.01  # with skip: stop when more of the training samples were bad
    # an ECG under 10 s: "refuse" (an error), or "repeat" (5 s and more start again at their end)
    ecg_length: readers.EcgLength = "refuse"


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How the encoder and its head are trained."""

    steps: Positive[int] = 400
    batch: Positive[int] = 32  # samples; a multiple of the mesh's data x fsdp
    # a set of n training samples is drawn from in proportion to n^(1/temperature): 1 = as they
    # come; the larger, the more alike
    temperature: Positive[float] = 2.0
    lr: NotNegative[float] = 1e-3
    warmup: NotNegative[int] = 20
    schedule: Schedule = "cosine"  # constant, cosine or linear, after the warm-up
    save_every: Positive[int] = 200


@dataclasses.dataclass(frozen=True)
class FewShotConfig:
    """What follows for a target set: probes and fine-tuning on a few of its samples."""

    shots: tuple[int, ...] = (1, 8, 32)  # samples of each label
    draws: Positive[int] = 5  # of the samples, for each number of shots
    # the one set that "single-source" is pretrained on; "" = the largest other one of the target's
    # domain, or of all where its domain has no other
    source: str = ""
    steps: Positive[int] = 60  # of fine-tuning
    batch: Positive[int] = 16
    lr: NotNegative[float] = 3e-4

    def check(self) -> None:
        """Raises ConfigError for shots that are none."""
        if not self.shots or min(self.shots) < 1:
            raise ConfigError(f"few.shots = {self.shots}", hint="give numbers of at least 1")


@dataclasses.dataclass(frozen=True)
class TransferConfig:
    """One run: pretraining on the labels of data sets, and few-shot transfer to one of them."""

    seed: int = 0
    workdir: str = "runs/transfer"
    # folder of compiled programs, for runs that share them; "" = inside the workdir
    compile_cache: str = ""
    encoder: str = "ecg_jepa_nano"  # a name of models/encoders/registry.py
    # float32 or bfloat16; master weights are always float32
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    # data sets that are trained on; () = all of the encoder's kind
    sets: tuple[str, ...] = ()
    # the set that is left out of the pretraining and then transferred to; "" = none
    target: str = ""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    data: TransferDataConfig = field(default_factory=TransferDataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    few: FewShotConfig = field(default_factory=FewShotConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    log: LogConfig = field(default_factory=LogConfig)


def encoder_of(cfg: TransferConfig) -> Encoder:
    """The row of the registry, at the config's size of pictures."""
    row = registry.get(cfg.encoder)
    if row.kind == "image" and cfg.data.image_size:
        size = dataclasses.replace(row.cfg, image_size=cfg.data.image_size)
        return dataclasses.replace(row, cfg=size)
    return row


def default() -> ml_collections.ConfigDict:
    """The defaults as a ConfigDict; config files start from it and change what differs."""
    return train_config.to_config_dict(TransferConfig())


def parse(config: ml_collections.ConfigDict | dict) -> TransferConfig:
    """ConfigDict -> frozen config.

    Raises:
      ConfigError: an unknown key, a wrong type, or a value that makes no sense.
    """
    parsed = train_config.parse_as(TransferConfig, config)
    registry.get(parsed.encoder)
    if parsed.target and parsed.target in parsed.sets:
        raise ConfigError(
            f"target = {parsed.target!r} is among sets, which are pretrained on",
            hint="leave it out of sets",
        )
    if parsed.target and parsed.few.source == parsed.target:
        raise ConfigError(f"few.source = {parsed.target!r} is the target itself")
    parsed.mesh.check_no_text("an encoder on labels")
    return parsed
