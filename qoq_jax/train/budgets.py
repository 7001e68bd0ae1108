"""The fixed shapes of a run's batches, as its config gives them."""

from __future__ import annotations

import math
from collections.abc import Mapping

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


def tokens_instead(
    cfg: Config, model: VlmConfig, mesh: Mapping[str, int], parts: int
) -> dict[str, int] | None:
    """The mesh with a part of its rows' devices given to tokens, as few as make the media rows
    divide over the others; None where none do, or heads or tokens do not divide so.

    Args:
      mesh: sizes of "data", "fsdp", "sequence" and "tensor".
      parts: that the rows of a batch are cut into.
    """
    fsdp = mesh["fsdp"]
    for more in (n for n in range(2, fsdp + 1) if fsdp % n == 0):
        new = {**mesh, "fsdp": fsdp // more, "sequence": mesh["sequence"] * more}
        if cfg.data.media_rows % (new["data"] * new["fsdp"] * parts):
            continue
        try:
            check_sequence(cfg, model, new["sequence"], new["tensor"])
        except ConfigError:
            continue
        return new
    return None


def hint_rows(cfg: Config, model: VlmConfig, mesh: Mapping[str, int], parts: int) -> str:
    """What to do where the media rows divide neither over the devices that share rows nor into
    their parts. Arguments: of `tokens_instead`.
    """
    hint = f"set data.media_rows to a multiple of {mesh['data'] * mesh['fsdp'] * parts}"
    new = tokens_instead(cfg, model, mesh, parts)
    if new is None:
        return hint
    return (
        f"{hint}, or cut rows by their tokens too: mesh.fsdp={new['fsdp']} "
        f"mesh.sequence={new['sequence']}"
    )
