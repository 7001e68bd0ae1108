"""The fixed shapes of a run's batches, as its config gives them."""

from __future__ import annotations

import math

from qoq_jax.base.errors import ConfigError
from qoq_jax.data.packing import Budget
from qoq_jax.models import sequence
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.train import stages
from qoq_jax.train.config import Config


def budget(
    cfg: Config,
    model: VlmConfig,
    rows: int,
    tokens: int,
    samples: int | None = None,
    largest: bool = False,
) -> Budget:
    """The shape of a batch.

    Args:
      cfg, model: the run's.
      rows, tokens: of the text.
      samples: how many samples the media budget is made for, packed into the rows; None = one
        sample per row.
      largest: room for the largest sample in every place (evaluation), not for the mean one.
    """
    data = cfg.data
    patches, ecgs = (
        (data.max_patches, max(1.0, data.mean_ecgs))
        if largest
        else (data.mean_patches, data.mean_ecgs)
    )
    ecgs = 0 if model.ecg is None else ecgs
    per_media_row = (samples or rows) / data.media_rows
    return Budget(
        rows=rows,
        tokens=tokens,
        media_rows=data.media_rows,
        pad_id=model.pad_id,
        patches=max(math.ceil(per_media_row * patches / 16) * 16, data.max_patches),
        ecgs=math.ceil(per_media_row * ecgs),
        max_per_row=1 if samples is None else 64,
        ecg_tokens=model.ecg_tokens,
        patch_dim=model.vision.patch_dim,
    )


def training_budget(cfg: Config, model: VlmConfig, stage: str, answers: bool) -> Budget:
    """The shape of a stage's batches.

    Args:
      stage: sft, align or rl.
      answers: whether gold answers follow the prompts.
    """
    if stages.get(stage).packed:
        return budget(cfg, model, cfg.sft.rows, cfg.sft.tokens, cfg.sft.samples)
    tokens = cfg.data.max_prompt_tokens + (cfg.data.max_response_tokens if answers else 0)
    return budget(cfg, model, cfg.rl.questions, tokens)


def check_sequence(cfg: Config, model: VlmConfig, ways: int, tensor: int) -> None:
    """Checks that the rows of all stages can be cut by tokens over `ways` devices, and the heads
    over these and `tensor`.

    Raises:
      ConfigError: they cannot.
    """
    if ways == 1:
        return
    sequence.repeats(model.decoder.num_heads, model.decoder.num_kv_heads, ways * tensor)
    data, rl = cfg.data, cfg.rl
    lengths = {"data.max_prompt_tokens": data.max_prompt_tokens}
    for stage in cfg.stages:
        if stages.get(stage).packed:
            lengths["sft.tokens"] = cfg.sft.tokens
        else:
            lengths["rl.rollouts * rl.response_tokens"] = rl.rollouts * rl.response_tokens
            lengths["data.max_response_tokens"] = data.max_response_tokens
    for name, tokens in lengths.items():
        if tokens % ways:
            raise ConfigError(
                f"{name} = {tokens} does not divide over mesh.sequence = {ways}",
                hint=f"make it a multiple of {ways}",
            )
