"""Prefill, decode and refill: many prompts, G samples each, through a fixed number of places.

A slot holds one prompt and G rows that sample answers to it; prompt keys and values exist once a
slot. All rows step together, but each has its own length and ends by itself: a row that has ended
takes the next sample of its prompt, and a slot without work takes the next prompt. So one long
answer holds one row, not the batch, and what a row draws depends on its own key, not on when it
runs.

Shapes are rounded up to a few sizes, so that prefill and decode compile once for each: prompt
tokens, patches, and the places for response tokens, which double when a row outgrows them. The
state is donated to every step; nothing of the size of the cache is copied.

Axis letters: P slots, G rows of a slot, C tokens of one call of `decode`, V vocabulary, D width, Tp
prompt places.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from qoq_jax.data.packing import Budget, GroupPacker, empty_batch
from qoq_jax.models import cache as cache_lib
from qoq_jax.models import decoder, vlm
from qoq_jax.models.cache import KVCache
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.parallel.mesh import constrain
from qoq_jax.sampling import tokens as sampling
from qoq_jax.sampling.rollout import last_position

CALL = 16  # most tokens of one call of `decode`; the host looks at the answers between calls
FIRST_PLACES = 128  # response places to begin with; they double on demand
# most of one prefill, so that its activations stay small
PREFILL_TOKENS, PREFILL_PATCHES = 1 << 15, 1 << 14


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to sample.

    Attributes:
      max_new_tokens: most tokens of an answer, the end token included.
      temperature: 0 = greedy. top_p: 1 = off. top_k: 0 = off.
      num_samples: answers to each prompt.
      rows: most answers that are sampled at the same time (rounded to whole slots).
      refill: False waits for all slots to end before the next prompts begin; for measurements.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    num_samples: int = 1
    rows: int = 64
    refill: bool = True


@struct.dataclass
class Slots:
    """Device state, donated from call to call.

    Attributes:
      cache: of P prompts and P x G responses.
      hidden: [P, G, D], predicts the next token of each row.
      prompt_hidden: [P, D], predicts the first token of an answer.
      last: int32 [P], position of the prompt's last token.
    """

    cache: KVCache
    hidden: jax.Array
    prompt_hidden: jax.Array
    last: jax.Array


def bucket(size: int, least: int = 16) -> int:
    """The next of 16, 20, 24, 28, 32, 40, ..., 128, 144, 160, ...: few shapes are compiled, and
    little is wasted.

    At most a quarter below 128, where a compilation costs more than the padding ever does, then at
    most an eighth.
    """
    if size <= least:
        return least
    step = max(1 << (size - 1).bit_length() - (3 if size <= 128 else 4), least // 4)
    return -(-size // step) * step


def shape_of(sample: Mapping[str, Any]) -> tuple[int, int, int]:
    """(tokens, patches, ecgs) of the rounded shape that holds a sample."""
    patches = len(sample["patches"])
    return (
        bucket(len(sample["input_ids"])),
        bucket(patches, 64) if patches else 0,
        len(sample["ecg"]),
    )


def make_batch(
    samples: Sequence[Mapping[str, Any]], shape: tuple[int, int, int], rows: int, cfg: VlmConfig
) -> dict[str, np.ndarray]:
    """One prompt a row, each with its own media row, padded to `rows` rows.

    Floats when one sample has normalised patches.
    """
    tokens, patches, ecgs = shape
    budget = Budget(
        rows=rows,
        tokens=tokens,
        media_rows=rows,
        patches=patches,
        ecgs=ecgs,
        max_per_row=1,
        ecg_tokens=cfg.ecg_tokens,
        pad_id=cfg.pad_id,
        patch_dim=cfg.vision.patch_dim,
    )
    batch = empty_batch(budget)
    floats = any(sample["patches"].dtype != np.uint8 for sample in samples)
    batch["patches"] = batch["patches"].astype(np.float32 if floats else np.uint8)
    for row, sample in enumerate(samples):
        if floats and sample["patches"].dtype == np.uint8:
            per_channel = cfg.vision.patch_dim // 3
            mean, std = (
                np.repeat(np.array(x, np.float32), per_channel)
                for x in (cfg.vision.pixel_mean, cfg.vision.pixel_std)
            )
            sample = dict(sample, patches=(sample["patches"] / np.float32(255) - mean) / std)
        packer = GroupPacker(budget)
        packer.add(sample)
        packer.write(batch, row)
    del batch["loss_mask"]
    return batch


# --------------------------------------------------------------------------------- device functions


@functools.cache
def _compiled(cfg: VlmConfig) -> dict[str, Callable]:
    """The jitted functions of a model; each compiles once for a shape."""
    return {
        "logits": jax.jit(lambda params, batch: vlm.logits(params, cfg, batch)),
        "empty": jax.jit(functools.partial(_empty, cfg), static_argnums=(0, 1, 2, 3)),
        "admit": jax.jit(functools.partial(_admit, cfg), donate_argnums=1),
        "grow": jax.jit(cache_lib.grow, static_argnums=1),
        "apart": jax.jit(lambda layers: decoder.layers_apart({"layers": layers}, cfg)["layers"]),
        "decode": jax.jit(
            functools.partial(_decode, cfg), donate_argnums=1, static_argnames=("length",)
        ),
    }


def _empty(cfg: VlmConfig, slots: int, rows: int, prompt: int, places: int) -> Slots:
    dec, dtype = cfg.decoder, jnp.dtype(cfg.compute_dtype)
    keys = constrain(
        jnp.zeros((dec.num_layers, slots, prompt, dec.num_kv_heads, dec.head_dim), dtype),
        (None, "batch", None, "kv_heads", None),
    )
    cache = cache_lib.init(
        keys, keys, jnp.zeros((slots, prompt), bool), rollouts=rows, max_new_tokens=places
    )
    prompt_hidden = jnp.zeros((slots, dec.width), dtype)
    return Slots(
        cache,
        jnp.zeros((slots, rows, dec.width), dtype),
        prompt_hidden,
        jnp.zeros(slots, jnp.int32),
    )


def _admit(cfg: VlmConfig, params, slots: Slots, batch, at: jax.Array) -> Slots:
    """Prefills the batch's prompts into the slots `at`, int32 [rows of the batch]; a row with at >=
    P is padding.
    """
    hidden, new = vlm.prefill(params, cfg, batch, rollouts=1, max_new_tokens=1)
    return slots.replace(
        cache=cache_lib.refill(slots.cache, new, at),
        prompt_hidden=slots.prompt_hidden.at[at].set(hidden, mode="drop"),
        last=slots.last.at[at].set(last_position(batch), mode="drop"),
    )


def _decode(cfg: VlmConfig, params, slots: Slots, control: dict[str, jax.Array], *, length: int):
    """Up to `length` = C tokens of every row that is live; params: see vlm.decode_params.

    control:
      start, live: bool [P, G]: rows that begin a new answer; rows that sample, the beginning ones
        included.
      keys: uint32 [P, G, 2]. steps: int32 [], at most C. limit: int32 [], most tokens of an answer.
      more: bool [P], the prompt has further samples to draw. waiting: bool [], further prompts wait
        for a slot.
      banned: bool [V]; temperature, top_p, top_k: scalars, and absent what is switched off.

    The call ends early when no row is live, and when a row ends that has something else to do.

    Returns (slots, tokens int32 [P, G, C], logprobs [P, G, C], count int32 [P, G] of tokens
    written, steps done).
    """
    start = control["start"]
    slots = slots.replace(
        hidden=jnp.where(start[..., None], slots.prompt_hidden[:, None], slots.hidden),
        cache=cache_lib.restart(slots.cache, start),
    )
    shape = (*start.shape, length)
    eos = jnp.asarray(cfg.eos_ids, jnp.int32)
    keys = jax.random.wrap_key_data(control["keys"])

    def body(carry):
        step, slots, live, tokens, logprobs, count, _ = carry
        uniform = sampling.uniforms(keys, slots.cache.length) if "temperature" in control else None
        token, logprob = sampling.choose(
            vlm.unembed(params, slots.hidden),
            uniform,
            control["banned"],
            temperature=control.get("temperature"),
            top_p=control.get("top_p"),
            top_k=control.get("top_k"),
        )
        token = jnp.where(live, token, cfg.pad_id)
        write = lambda array, value: jax.lax.dynamic_update_index_in_dim(array, value, step, axis=2)  # noqa: E731
        ended = live & (
            (token[..., None] == eos[None, None]).any(axis=-1)
            | (slots.cache.length + 1 >= control["limit"])
        )
        count, going = count + live, live & ~ended
        positions = (slots.last[:, None] + 1 + slots.cache.length)[:, None, :]
        hidden, cache = vlm.decode_step(
            params, cfg, token, jnp.broadcast_to(positions, (shape[0], 3, shape[1])), slots.cache
        )
        row_free, slot_free = ended.any(axis=1), ended.any(axis=1) & ~going.any(axis=1)
        stop = (
            (row_free & control["more"]).any()
            | (slot_free.any() & control["waiting"])
            | ~going.any()
        )
        slots = slots.replace(hidden=hidden, cache=cache)
        return step + 1, slots, going, write(tokens, token), write(logprobs, logprob), count, stop

    carry = (
        jnp.zeros((), jnp.int32),
        slots,
        control["live"],
        jnp.zeros(shape, jnp.int32),
        jnp.zeros(shape, jnp.float32),
        jnp.zeros(shape[:2], jnp.int32),
        ~control["live"].any(),
    )
    step, slots, _, tokens, logprobs, count, _ = jax.lax.while_loop(
        lambda c: (c[0] < control["steps"]) & ~c[-1], body, carry
    )
    return slots, tokens, logprobs, count, step


# ---------------------------------------------------------------------------------------- host loop


@dataclasses.dataclass
class Answer:
    """One row's answer while it grows."""

    prompt: int
    sample: int
    tokens: list[np.ndarray] = dataclasses.field(default_factory=list)
    logprobs: list[np.ndarray] = dataclasses.field(default_factory=list)
    length: int = 0
    reason: str = ""


class Engine:
    """Runs prompts through the slots.

    Attributes:
      steps: decode steps so far. prefills: prompts prefilled so far.
    """

    def __init__(
        self, params, cfg: VlmConfig, mesh: jax.sharding.Mesh | None, banned: Sequence[int]
    ):
        self._params, self._cfg, self._mesh = (
            vlm.layer_views(params, cfg, decoder.UNROLL_LAYERS),
            cfg,
            mesh,
        )
        self._run = _compiled(cfg)
        self._shards = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
        mask = np.zeros(cfg.decoder.vocab_size, bool)
        mask[[i for i in banned if i < len(mask)]] = True
        with self._on_mesh():
            self._banned = jnp.asarray(mask)
        self.steps = self.prefills = 0

    def _decode_params(self):
        """The decoder with each layer apart: views where that copies nothing, else a second copy of
        the layers.
        """
        mine = vlm.layer_views(self._params, self._cfg)["decoder"]
        apart = isinstance(mine["layers"], tuple)
        return {"decoder": mine if apart else mine | {"layers": self._run["apart"](mine["layers"])}}

    def _on_mesh(self):
        return contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)

    def _put(self, batch):
        return (
            batch
            if self._mesh is None
            else jax.device_put(batch, mesh_lib.batch_sharding(self._mesh))
        )

    def logits(self, samples: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
        """Float32 [T, V] of each sample: one full forward pass, no cache."""
        out: list[Any] = [None] * len(samples)
        for shape, group in self._by_shape(range(len(samples)), samples):
            most = max((1 << 28) // (shape[0] * self._cfg.decoder.vocab_size), 1)
            for part, rows in self._parts(group, shape, most):
                batch = self._put(make_batch([samples[i] for i in part], shape, rows, self._cfg))
                with self._on_mesh():
                    values = np.asarray(self._run["logits"](self._params, batch))
                for row, i in enumerate(part):
                    out[i] = values[row, : len(samples[i]["input_ids"])].copy()
        return out

    def _by_shape(self, indices, samples):
        """[(shape, indices of that shape in order)]."""
        groups = collections.defaultdict(list)
        for i in indices:
            groups[shape_of(samples[i])].append(i)
        return list(groups.items())

    def _parts(self, group: list[int], shape: tuple[int, int, int], most: int = 1 << 30):
        """Cuts a group into prefills of bounded size; yields (indices, rows of the batch: a power
        of 2 times the shards).
        """
        room = max(min(PREFILL_TOKENS // shape[0], PREFILL_PATCHES // max(shape[1], 1), most), 1)
        room = self._shards * (1 << (max(room // self._shards, 1).bit_length() - 1))
        for first in range(0, len(group), room):
            part = group[first : first + room]
            rows = self._shards
            while rows < len(part):
                rows *= 2
            yield part, rows

    def generate(
        self,
        samples: Sequence[Mapping[str, Any]],
        settings: Settings,
        seeds: Sequence[tuple[int, int]],
        watch: Callable[[Answer, np.ndarray, bool], int | None] | None = None,
    ) -> list[list[Answer]]:
        """Answers to each sample.

        Args:
          samples: what sampling/inputs.py prepares.
          seeds: (seed, number) of each sample; its answers depend on them and on the sample alone.
          watch: called with (answer, its new tokens, whether they are its last) after each call of
            `decode`; returns None, or how many of the new tokens to keep when the answer is to end
            there.
        """
        width = min(settings.num_samples, max(settings.rows, 1))
        count = min(len(samples), max(settings.rows // width, 1))
        count = -(-count // self._shards) * self._shards
        answers = [[Answer(i, g) for g in range(settings.num_samples)] for i in range(len(samples))]
        keys = _keys(seeds, settings.num_samples)
        queue = collections.deque(range(len(samples)))
        most_places = bucket(settings.max_new_tokens, 32)
        places = min(most_places, FIRST_PLACES)
        prompt = max(shape_of(sample)[0] for sample in samples)
        with self._on_mesh():
            slots = self._run["empty"](count, width, prompt, places)
            weights = self._decode_params()  # once for all calls of `decode`
        fixed = {"banned": self._banned, "limit": np.int32(settings.max_new_tokens)}
        if settings.temperature > 0:
            fixed["temperature"] = np.float32(settings.temperature)
            fixed |= {"top_p": np.float32(settings.top_p)} if settings.top_p < 1 else {}
            fixed |= {"top_k": np.int32(settings.top_k)} if settings.top_k > 0 else {}
        # answers of each slot not begun yet
        todo: list[collections.deque] = [collections.deque() for _ in range(count)]
        rows: list[list[Answer | None]] = [[None] * width for _ in range(count)]
        idle = lambda p: not todo[p] and not any(rows[p])  # noqa: E731

        while True:
            free = [p for p in range(count) if idle(p)]
            if queue and free and (settings.refill or len(free) == count):
                arriving = {queue.popleft(): p for p in free[: len(queue)]}
                slots = self._fill(slots, samples, arriving, count)
                for i, p in arriving.items():
                    todo[p] = collections.deque(answers[i])
            start, live = np.zeros((2, count, width), bool)
            row_keys = np.zeros((count, width, 2), np.uint32)
            for p in range(count):
                for g in range(width):
                    if rows[p][g] is None and todo[p]:
                        rows[p][g], start[p, g] = todo[p].popleft(), True
                    if (answer := rows[p][g]) is not None:
                        live[p, g], row_keys[p, g] = True, keys[answer.prompt, answer.sample]
            if not live.any():
                break
            longest = max(answer.length for row in rows for answer in row if answer)
            while places - longest < CALL and places < most_places:
                places = min(2 * places, most_places)
                with self._on_mesh():
                    slots = slots.replace(cache=self._run["grow"](slots.cache, places))
            control = fixed | {
                "start": start,
                "live": live,
                "keys": row_keys,
                "steps": np.int32(min(CALL, places - longest)),
                "more": np.array([bool(t) for t in todo]),
                "waiting": np.bool_(bool(queue) and settings.refill),
            }
            with self._on_mesh():
                slots, *found = self._run["decode"](weights, slots, control, length=CALL)
            tokens, logprobs, written, steps = jax.device_get(found)
            self.steps += int(steps)
            for p, g in zip(*np.nonzero(live)):
                if self._extend(
                    rows[p][g],
                    tokens[p, g, : written[p, g]],
                    logprobs[p, g, : written[p, g]],
                    settings,
                    watch,
                ):
                    rows[p][g] = None
        return answers

    def _fill(self, slots: Slots, samples, arriving: dict[int, int], count: int) -> Slots:
        """Prefills the arriving prompts (sample -> slot), those of one shape together."""
        for shape, group in self._by_shape(arriving, samples):
            for part, rows in self._parts(group, shape):
                at = np.full(rows, count, np.int32)
                at[: len(part)] = [arriving[i] for i in part]
                batch = self._put(make_batch([samples[i] for i in part], shape, rows, self._cfg))
                with self._on_mesh():
                    slots = self._run["admit"](self._params, slots, batch, at)
                self.prefills += len(part)
        return slots

    def _extend(
        self, answer: Answer, tokens: np.ndarray, logprobs: np.ndarray, settings: Settings, watch
    ) -> bool:
        """Adds new tokens to an answer; says whether it has ended."""
        if len(tokens) and int(tokens[-1]) in self._cfg.eos_ids:
            answer.reason = "eos"
        elif answer.length + len(tokens) >= settings.max_new_tokens:
            answer.reason = "length"
        if watch is not None:
            kept = watch(answer, tokens, bool(answer.reason))
            if kept is not None:
                answer.reason = "stop"
                tokens, logprobs = tokens[:kept], logprobs[:kept]
        answer.tokens.append(tokens)
        answer.logprobs.append(logprobs)
        answer.length += len(tokens)
        return bool(answer.reason)


def _keys(seeds: Sequence[tuple[int, int]], samples: int) -> np.ndarray:
    """uint32 [len(seeds), samples, 2]."""

    def one(seed, number):
        return sampling.row_keys(jax.random.fold_in(jax.random.key(seed), number), 1, samples)[0]

    pairs = np.array(seeds, np.uint32)
    return np.asarray(jax.random.key_data(jax.vmap(one)(pairs[:, 0], pairs[:, 1])))
