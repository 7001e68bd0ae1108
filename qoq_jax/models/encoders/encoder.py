"""What every encoder of a modality offers: weights, tokens and one vector per sample.

Axis letters: base/axes.py; B samples, S tokens of a sample, W width; those of an input are below.

Batches by kind, dicts of arrays; a place that is padded is False in its mask and changes nothing:

  image       pixels [B,Z,y,x,3] float32, normalised by the encoder's `mean` and `std`; slice_valid
              bool [B,Z]. Z is 1 for pictures; slices of a volume or frames of a video are encoded
              one by one and averaged (2.5D, as CLIMB does)
  ecg         signal [B,8,2500] float32, mV at 250 Hz
  eeg         signal [B,C,T] float32, microvolts at 200 Hz; channel_valid bool [B,C]. The channels
              are those of the encoder's `cfg.electrodes`, names as in climb/arrays/montage.py
  graph       nodes [B,N,F] float32; node_valid bool [B,N]; adjacency [B,N,N] float32, weights of
              the edges, 0 where there is none
  motion      signal [B,T,C] float32; step_valid bool [B,T]
  expression  values [B,N] float32; value_valid bool [B,N]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax

Kind = Literal["image", "ecg", "eeg", "graph", "motion", "expression"]
Params = dict[str, Any]
Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """One row of the registry: an architecture at a size.

    Attributes:
      name: "convnextv2_atto"; the name in configs and on the command line.
      kind: of the batches that it reads.
      cfg: sizes, a frozen dataclass of the architecture's own.
      width: W, of `tokens` and `pooled`.
      param_specs: cfg -> nested dict of ParamSpec, with the published names in hf_key.
      tokens: (params, cfg, batch) -> tokens [B,S,W] and their mask, bool [B,S].
      pooled: (params, cfg, batch) -> [B,W], the vector on which the published classifier acts.
      layouts: names of the published weight layouts that can be read, the first as in hf_key.
      source: paper, and the repository whose weights are read.
    """

    name: str
    kind: Kind
    cfg: Any
    width: int
    param_specs: Callable[[Any], Params]
    tokens: Callable[[Params, Any, Batch], tuple[jax.Array, jax.Array]]
    pooled: Callable[[Params, Any, Batch], jax.Array]
    layouts: tuple[str, ...] = ()
    source: str = ""
