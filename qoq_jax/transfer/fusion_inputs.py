"""What frozen encoders say of the modalities of admissions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.base import progress
from qoq_jax.climb.mimic.admissions import Admissions
from qoq_jax.data import images, readers
from qoq_jax.models.encoders.encoder import Encoder, Params
from qoq_jax.models.fusion import Inputs, Modality
from qoq_jax.transfer import model

RECORD = "record"


def table(found: Admissions) -> tuple[Inputs, Modality]:
    """The record: its columns are tokens, and its vector says of each column also whether it is
    known.
    """
    pooled = np.concatenate([found.values, found.known.astype(np.float32)], axis=1)
    inputs = Inputs(RECORD, pooled.shape[1], len(found.columns), 1, table=True)
    return inputs, Modality(pooled, found.values[..., None], found.known)


def medium(
    name: str,
    encoder: Encoder,
    params: Sequence[Params],
    paths: Sequence[str],
    train: np.ndarray,
    tokens: int,
    batch: int,
) -> tuple[Inputs, list[Modality]]:
    """What an encoder says of one file per admission, with each of several weights: a file is read
    once.

    Each feature is standardised by the training admissions that have the file: random and
    pretrained weights differ in the size of what they say, which is not what is compared.

    Args:
      name: of the modality.
      paths: "" for an admission without it; at least one training admission has one.
      train: numbers of the training admissions.
      tokens: at most so many per admission; means of neighbours where there are more.
      batch: files that are encoded at once.
    """
    there = np.array([bool(path) for path in paths])
    wanted = np.flatnonzero(there)
    read = _ecg if encoder.kind == "ecg" else _picture(int(encoder.cfg.image_size))
    run = _program(encoder, tokens)
    parts: list[list[Any]] = [[] for _ in params]
    for start in range(0, len(wanted), batch):
        progress.beat()
        some = wanted[start : start + batch]
        made = [read(paths[n]) for n in some]
        made += [made[0]] * (batch - len(made))  # one shape
        arrays = {key: np.stack([one[key] for one in made]) for key in made[0]}
        for part, one in zip(parts, params, strict=True):
            part.append([np.asarray(x)[: len(some)] for x in run(one, arrays)])
    learned, made = np.isin(wanted, train), []
    for part in parts:
        pooled, seen, valid = (np.concatenate(arrays) for arrays in zip(*part, strict=True))
        pooled = _standardised(pooled, pooled[learned])
        seen = _standardised(seen, seen[learned][valid[learned]])
        made.append(Modality(*(_spread(x, wanted, len(paths)) for x in (pooled, seen, valid))))
    sizes = Inputs(name, made[0].pooled.shape[1], *made[0].tokens.shape[1:])
    return sizes, made


def _standardised(x: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return (x - seen.mean(axis=0)) / (seen.std(axis=0) + 1e-6)


def _spread(x: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """[m, ...] -> [count, ...], zeros where there is nothing."""
    whole = np.zeros((count, *x.shape[1:]), x.dtype)
    whole[places] = x
    return whole


def _ecg(path: str) -> dict[str, np.ndarray]:
    return {"signal": readers.read_ecg(path)}


def _picture(size: int) -> Callable[[str], dict[str, np.ndarray]]:
    def read(path: str) -> dict[str, np.ndarray]:
        picture = images.resize(readers.read_image(path), size, size)
        return {"pixels": picture[None], "slice_valid": np.ones(1, bool)}

    return read


@functools.cache
def _program(encoder: Encoder, most: int) -> Any:
    """Compiled (weights, arrays) -> (pooled [B,W], tokens [B,S,V], valid [B,S]), S at most
    `most`.
    """

    def run(params: Params, arrays: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        batch = model.normalised(encoder, arrays)
        tokens, valid = encoder.tokens(params, encoder.cfg, batch)
        return (encoder.pooled(params, encoder.cfg, batch), *shorten(tokens, valid, most))

    return jax.jit(run)


def shorten(tokens: jax.Array, valid: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Means of neighbouring tokens, so that at most `most` are left.

    Args:
      tokens: [B,S,V]. valid: bool [B,S].

    Returns:
      [B,s,V] means over the valid ones, and bool [B,s], s <= most.
    """
    size = -(-tokens.shape[1] // most)
    pad = -tokens.shape[1] % size
    tokens = jnp.pad(tokens, ((0, 0), (0, pad), (0, 0)))
    valid = jnp.pad(valid, ((0, 0), (0, pad)))
    shape = tokens.shape[0], -1, size
    counts = valid.reshape(*shape).sum(axis=2)
    kept = jnp.where(valid[..., None], tokens, 0).reshape(*shape, tokens.shape[2])
    return kept.sum(axis=2) / jnp.maximum(counts, 1)[..., None], counts > 0
