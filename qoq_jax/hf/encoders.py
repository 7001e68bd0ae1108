"""Weights of encoders from published safetensors, and back.

    params = load(registry.get("dinov2_base"), "model.safetensors")

The layout of a file (encoder_layouts.py) is recognised by its names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from qoq_jax.base import storage
from qoq_jax.base.errors import CheckpointError, ConfigError, did_you_mean
from qoq_jax.base.files import replacing
from qoq_jax.hf import names as keys
from qoq_jax.hf import safetensors as files
from qoq_jax.hf.encoder_layouts import LAYOUTS, Form, Layout
from qoq_jax.hf.load import from_tensors
from qoq_jax.hf.save import to_tensors
from qoq_jax.models import spec as spec_lib
from qoq_jax.models.encoders.encoder import Encoder

Shape = tuple[int, ...]


def load(
    encoder: Encoder, path: str, mesh: Mesh | None = None, dtype: Any = None
) -> dict[str, Any]:
    """Reads published weights.

    Args:
      encoder: of models/encoders/registry.py.
      path: a safetensors file, or a directory with model.safetensors or its index.
      mesh, dtype: as for hf.load.load.

    Returns:
      The parameters, as `encoder.param_specs` describes. A classifier in the file is left out.

    Raises:
      ConfigError: nobody has published weights of the encoder that are read here.
      CheckpointError: the file cannot be read, or weights are missing, left over, or of another
        shape or type than the encoder's; all are named, and nothing is loaded.
    """
    local = storage.local(path)
    stored = files.open_directory(local) if os.path.isdir(local) else files.header(local)
    shapes = _shapes(encoder)
    names = _layouts(encoder)
    layout = max((LAYOUTS[name] for name in names), key=lambda x: _known(x, stored, shapes))
    theirs = layout.opened(_own(layout, stored))
    problems = _problems(layout, theirs, shapes)
    if problems:
        raise CheckpointError(
            "; ".join(problems), where=path, hint=f"give weights of {encoder.name}"
        )
    tensors = {name: _read(layout, name, shape, theirs) for name, shape in shapes.items()}
    specs = encoder.param_specs(encoder.cfg)
    return from_tensors(specs, tensors, mesh, dtype, where=path)


def save(encoder: Encoder, path: str, params: Mapping[str, Any], layout: str = "") -> None:
    """Writes a safetensors file that timm or transformers reads.

    Args:
      encoder: whose weights `params` are.
      path: the file; written whole or not at all.
      params: on any mesh.
      layout: one of `encoder.layouts`; "" = the first.

    Raises:
      ConfigError: the encoder has no such layout.
      CheckpointError: parameters of another encoder; all that do not fit are named.
    """
    names = _layouts(encoder)
    layout = layout or names[0]
    if layout not in names:
        hint = did_you_mean(layout, names)
        raise ConfigError(f"{encoder.name} has no layout {layout!r}", where="layout", hint=hint)
    specs = encoder.param_specs(encoder.cfg)
    flat, leaves = spec_lib.flatten(specs), spec_lib.flatten(params)
    wrong = sorted(
        name
        for name in flat.keys() | leaves.keys()
        if name not in flat or name not in leaves or tuple(leaves[name].shape) != flat[name].shape
    )
    if wrong:
        hint = f"give parameters of {encoder.name}"
        raise CheckpointError(f"parameters that do not fit: {', '.join(wrong)}", hint=hint)
    form = LAYOUTS[layout]
    theirs: dict[str, np.ndarray] = {}
    for name, tensor in to_tensors(specs, params):
        parts, kind = form.stored(name)
        pieces = np.split(tensor, len(parts))
        theirs |= {
            part: piece.reshape(_their_shape(kind, piece.shape))
            for part, piece in zip(parts, pieces, strict=True)
        }
    theirs = form.saved(theirs)
    plan = {name: (files.dtype_name(x.dtype), x.shape) for name, x in theirs.items()}
    with replacing(path) as partial:
        files.write(partial, plan, theirs.values())


def _layouts(encoder: Encoder) -> tuple[str, ...]:
    """Names of the layouts of this file that the encoder has; at least one."""
    names = tuple(name for name in encoder.layouts if name in LAYOUTS)
    if not names:
        raise ConfigError(
            f"no published layout of {encoder.name} is known here",
            where="encoder",
            hint="transfer/weights.py reads what a run here trained, and files of ECG-JEPA",
        )
    return names


def _shapes(encoder: Encoder) -> dict[str, Shape]:
    """{timm's name: shape} of every weight of the encoder."""
    specs = spec_lib.flatten(encoder.param_specs(encoder.cfg)).values()
    return {name: keys.published_shape(spec) for spec in specs for name in keys.layer_keys(spec)}


def _their_shape(form: Form, shape: Shape) -> Shape:
    """Shape in a layout of an array that has `shape` in timm."""
    if form == "matrix":
        return shape[:2]
    return (1, 1, 1, *shape) if form == "row" else shape


def _own(layout: Layout, stored: Mapping[str, Any]) -> dict[str, Any]:
    """What of a file is the encoder's, by name without prefix."""
    names = {name: name.removeprefix(layout.prefix) for name in stored}
    return {own: stored[name] for name, own in names.items() if not re.fullmatch(layout.other, own)}


def _expected(layout: Layout, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """{name in the layout: shape} of every weight."""
    expected = {}
    for name, shape in shapes.items():
        parts, form = layout.stored(name)
        shape = _their_shape(form, (shape[0] // len(parts), *shape[1:]))
        expected |= dict.fromkeys(parts, shape)
    return expected


def _known(layout: Layout, stored: Mapping[str, Any], shapes: Mapping[str, Shape]) -> int:
    """How many names of the file are weights in this layout."""
    return len(_expected(layout, shapes).keys() & _own(layout, stored).keys())


def _problems(layout: Layout, theirs: Mapping[str, Any], shapes: Mapping[str, Shape]) -> list[str]:
    """What does not fit, one sentence per kind, with the names that the file has."""
    expected = _expected(layout, shapes)
    wrong = {
        name: f"{name} {list(theirs[name].shape)} for {list(shape)}"
        for name, shape in expected.items()
        if name in theirs and tuple(theirs[name].shape) != shape
    }
    found = {
        "missing": keys.fold(expected.keys() - theirs.keys()),
        "left over": keys.fold(theirs.keys() - expected.keys()),
        "of another shape": list(wrong.values()),
    }
    return [f"{what}: {', '.join(names)}" for what, names in found.items() if names]


def _read(layout: Layout, name: str, shape: Shape, theirs: Mapping[str, Any]) -> Any:
    """A weight as timm has it."""
    parts, _ = layout.stored(name)
    tensors = [theirs[part] for part in parts]
    if len(tensors) == 1 and tuple(tensors[0].shape) == shape:
        return tensors[0]

    def make() -> np.ndarray:
        arrays = [x if isinstance(x, np.ndarray) else x.map() for x in tensors]
        return np.concatenate(arrays).reshape(shape)

    if isinstance(tensors[0], np.ndarray):
        return make()
    return files.MadeTensor(name, tensors[0].dtype_name, shape, make)
