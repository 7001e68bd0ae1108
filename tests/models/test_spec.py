"""The table of weights: deterministic init, names, shapes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from helpers.models import TINY, hf_params

from qoq_jax.models import sizes as variants
from qoq_jax.models import spec, vlm


def test_published_names_of_all_layers():
    specs = spec.flatten(vlm.param_specs(variants.get("7b")))
    keys = {s.hf_key.format(27) for s in specs.values() if s.hf_key.startswith("model.layers")}
    assert "model.layers.27.self_attn.q_proj.bias" in keys and len(keys) == 12
    assert specs["decoder/layers/o/kernel"].hf_key == "model.layers.{}.self_attn.o_proj.weight"
    assert specs["vision/blocks/qkv/kernel"].hf_key == "visual.blocks.{}.attn.qkv.weight"


def test_initial_values_depend_on_key_and_path_only():
    table = {
        "a": spec.ParamSpec((64, 32), (None, None), 0.5),
        "b": {
            "c": spec.ParamSpec((64, 32), (None, None), 0.5),
            "d": spec.ParamSpec((4,), (None,), "ones"),
        },
    }
    params = spec.init_params(table, jax.random.key(0))
    alone = spec.init_params({"b": {"c": table["b"]["c"]}}, jax.random.key(0))
    np.testing.assert_array_equal(params["b"]["c"], alone["b"]["c"])
    assert not np.array_equal(params["a"], params["b"]["c"])
    assert abs(float(params["a"].std()) - 0.5) < 0.03 and float(jnp.abs(params["a"]).max()) < 1.2
    assert params["b"]["d"].tolist() == [1, 1, 1, 1]


def test_abstract_count_and_flatten_agree():
    specs = vlm.param_specs(TINY)
    shapes = spec.abstract(specs, jnp.bfloat16)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == spec.count(specs)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.bfloat16)}
    assert spec.unflatten(spec.flatten(specs)) == specs
    assert jax.tree.structure(hf_params()) == jax.tree.structure(shapes)


def test_weight_decay_pulls_at_matrices_and_not_at_norms():
    specs = spec.flatten(vlm.param_specs(variants.get("nano")))
    decays = {path: leaf.decays for path, leaf in specs.items()}
    assert not decays["decoder/layers/attention_norm/scale"] and not decays["ecg/blocks/up_bias"]
    assert decays["decoder/layers/q/kernel"] and decays["decoder/embedding"]


def test_scales_of_norms_and_nothing_else_of_the_decoder_compute_in_float32():
    specs = spec.flatten(vlm.param_specs(variants.get("qwen3-2b"))["decoder"])
    in_float32 = {path for path, leaf in specs.items() if leaf.compute_in_float32}
    assert in_float32 == {path for path in specs if path.endswith("norm/scale")}
