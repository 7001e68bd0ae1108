"""Sections optimizer, sft, align, ecg, checkpoint, faults, profile and log of a config: the
training sections.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from qoq_jax.base.errors import ConfigError
from qoq_jax.base.fields import NotNegative, Positive, check_choice
from qoq_jax.data.rows import DOMAINS
from qoq_jax.rl.config import Schedule


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, as in QoQ-Med (spec: lr 1e-6 there; the stages set their own)."""

    weight_decay: NotNegative[float] = 0.01
    b1: float = 0.9
    b2: float = 0.999
    clip_norm: Positive[float] = 1.0
    # weights that stay as they are, by the start of their path: "vision", "vision/patch_embed", ...
    frozen: tuple[str, ...] = ()
    max_skipped: Positive[int] = 10  # stop after so many non-finite updates in a row
    offload: bool = False  # keep the moments in host memory between updates


@dataclasses.dataclass(frozen=True)
class SftConfig:
    """Supervised warm start."""

    steps: Positive[int] = 200
    rows: Positive[int] = 16  # text rows per batch; several samples are packed into one
    tokens: Positive[int] = 352  # length of a text row
    samples: Positive[int] = 48  # samples per batch that the media budget is made for
    limit: int = 0  # use only so many training rows (0 = all)
    # False: teach format, boxes and findings, but hide the diagnosis (data/edits.py
    # HideDiagnosis)
    diagnoses: bool = True
    # share of the rows whose findings have random labels (data/edits.py NoisyLabels)
    label_noise: float = 0.0
    # teach boxes whose edges lie up to this share of a side inside the gold box (data/edits.py
    # ShrinkBoxes)
    box_shrink: float = 0.0
    lr: NotNegative[float] = 1e-3
    warmup: NotNegative[int] = 20
    schedule: Schedule = "cosine"  # constant, cosine or linear, after the warm-up
    accumulate: Positive[int] = 1  # micro-batches per step; divides media_rows
    save_every: Positive[int] = 100

    def check(self) -> None:
        """Raises ConfigError for a value that makes no sense."""
        if not 0 <= self.label_noise <= 1:
            raise ConfigError(f"sft.label_noise = {self.label_noise} must be in [0, 1]")
        if self.label_noise and not self.diagnoses:
            raise ConfigError(
                "sft.label_noise with sft.diagnoses = False, which hides all diagnoses",
                hint="set one of them",
            )
        if not 0 <= self.box_shrink < 0.5:
            raise ConfigError(f"sft.box_shrink = {self.box_shrink} must be in [0, 0.5)")


@dataclasses.dataclass(frozen=True)
class AlignConfig:
    """Stage 1 of QoQ-Med, modality alignment: section rl, on some domains, with more frozen."""

    steps: Positive[int] = 100
    lr: NotNegative[float] = 3e-4
    domains: tuple[str, ...] = ("ecg",)
    frozen: tuple[str, ...] = ("vision",)  # beside optimizer.frozen

    def check(self) -> None:
        """Raises ConfigError for a domain that there is not."""
        for domain in self.domains:
            check_choice("align.domains", domain, DOMAINS)


@dataclasses.dataclass(frozen=True)
class EcgPretrainConfig:
    """ECG-JEPA pretraining of the variant's ECG encoder (stage "ecg", a run of its own)."""

    # climb-mini ECGs to generate, a fifth of the patients held out for the linear probe; 0 = none
    rows: int = 3000
    # another one than data.mini_seed, so that no patient of climb-mini is among them
    data_seed: int = 1000
    # further ECGs: trees of WFDB, NPZ or DICOM files (unlabelled), or folders with train.jsonl
    folders: tuple[str, ...] = ()
    steps: Positive[int] = 400
    batch: Positive[int] = 32  # a multiple of the mesh's data x fsdp
    # hidden time steps: "random", or "block" (multi-block)
    mask: Literal["random", "block"] = "random"
    # share of the steps that is hidden (random), or that each block hides: sampled from [low, high)
    mask_low: float = 0.6
    mask_high: float = 0.7
    mask_blocks: Positive[int] = 4  # blocks of mask=block
    lr: NotNegative[float] = 2e-3
    warmup: NotNegative[int] = 30
    schedule: Schedule = "cosine"
    # of the moving average that gives the targets, rising linearly to 1; the paper has 0.996 for
    # long runs
    momentum: float = 0.99
    save_every: Positive[int] = 100

    def check(self) -> None:
        """Raises ConfigError when the mask or the moving average makes no sense."""
        blocks = self.mask_blocks if self.mask == "block" else 1
        if not 0.02 <= self.mask_low <= self.mask_high or blocks * self.mask_high >= 1:
            raise ConfigError(
                f"ecg.mask_low = {self.mask_low}, mask_high = {self.mask_high} with {blocks} "
                "block(s) hides nothing or everything",
                hint="0.6 and 0.7 for random, 0.175 and 0.225 for block",
            )
        if not 0 <= self.momentum <= 1:
            raise ConfigError(f"ecg.momentum = {self.momentum} must be in [0, 1]")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Which saved steps of a stage are kept; how often it saves is the stage's `save_every`."""

    keep_last: Positive[int] = 2  # the newest ones; one alone has none to fall back on
    # of the steps that were saved after a validation, so many with the highest macro-F1
    keep_best: NotNegative[int] = 0
    keep_every: NotNegative[int] = 0  # steps divisible by it stay for good; 0 = none


@dataclasses.dataclass(frozen=True)
class FaultsConfig:
    """When a run gives up waiting (docs/reliability.md). 0 turns a limit off."""

    # seconds from SIGTERM to the end of the process. Kubernetes, SLURM and preempted TPU VMs give
    # 30 by default
    grace: Positive[float] = 25.0
    # seconds without progress after which the process ends with code 42 and its stacks
    watchdog: NotNegative[float] = 1800.0
    # the same while the programs of a phase may be compiling
    watchdog_compile: NotNegative[float] = 3600.0
    max_restarts: NotNegative[int] = 8  # starts in a row without a new checkpoint, then code 1


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
    """A trace of some steps of each stage, for xprof: WORKDIR/profile/STAGE."""

    start: NotNegative[int] = 10  # finished steps before the first one traced
    steps: NotNegative[int] = 0  # that are traced; 0 = no trace


@dataclasses.dataclass(frozen=True)
class LogConfig:
    every: Positive[int] = 5  # steps between log lines and metric rows
    tensorboard: bool = True
    wandb: bool = False  # needs the extra `wandb`
