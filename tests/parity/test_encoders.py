"""Encoders of images against timm and transformers: tokens and pooled vectors from files that they
wrote, the files written back, and the names and shapes of every published size.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from helpers.encoders import encode, tiny
from safetensors.numpy import load_file
from safetensors.torch import save_file

from benchmarks.timm_models import loud, timm
from qoq_jax.hf import encoders
from qoq_jax.hf import names as keys
from qoq_jax.models import spec
from qoq_jax.models.encoders import registry

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
VIT = {"img_size": 32, "embed_dim": 16, "depth": 2, "num_heads": 2, "dynamic_img_size": True}
TIMM = {
    "convnextv2_atto": ("convnextv2_atto", {"depths": (2,) * 4, "dims": (8,) * 4}),
    "vit_small": ("vit_small_patch16_224", {**VIT, "mlp_ratio": 2}),
    "dinov2_small_registers": ("vit_small_patch14_reg4_dinov2", {**VIT, "patch_size": 8}),
    "dinov2_giant": ("vit_giant_patch14_dinov2", {**VIT, "patch_size": 8, "mlp_ratio": 3}),
    "swinv2_tiny": (
        "swinv2_tiny_window8_256",
        {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2)}
        | {"pretrained_window_sizes": (3, 2)},
    ),
    "eva02_tiny": (
        "eva02_tiny_patch14_224",
        {**VIT, "patch_size": 8, "mlp_ratio": 1.5, "ref_feat_shape": (3, 3)},
    ),
    "eva02_base": (
        "eva02_base_patch14_224",
        {**VIT, "patch_size": 8, "mlp_ratio": 1.5, "ref_feat_shape": (3, 3)},
    ),
}
DINO = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
TRANSFORMERS = {
    "convnextv2_atto": (
        "ConvNextV2",
        {"depths": (2,) * 4, "hidden_sizes": (8,) * 4, "layer_norm_eps": 1e-6},
    ),
    "vit_small": (
        "ViT",
        DINO | {"patch_size": 16, "intermediate_size": 32, "layer_norm_eps": 1e-6},
    ),
    "dinov2_small": ("Dinov2", DINO),
    "dinov2_small_registers": ("Dinov2WithRegisters", DINO),
    "dinov2_giant": ("Dinov2", DINO | {"mlp_ratio": 2, "use_swiglu_ffn": True}),
    "swinv2_tiny": (
        "Swinv2",
        {"image_size": 32, "window_size": 4, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2)},
    ),
}
# timm's ConvNeXt has four stages whatever it is asked for; offsets of its Swin are counted in
# smaller windows here, as those of weights that were trained at a smaller size
CONVNEXT = {"depths": (2,) * 4, "widths": (8,) * 4}
OWN_SIZES = {
    ("timm", "convnextv2_atto"): CONVNEXT,
    ("transformers", "convnextv2_atto"): CONVNEXT,
    ("timm", "swinv2_tiny"): {"trained_windows": (3, 2)},
}
# Rows and columns of pixels other than those of the weights: positions are interpolated, as
# transformers does it (timm stretches the filter for ViT too).
OTHER = {
    ("timm", "convnextv2_atto"): (32, 64),
    ("transformers", "convnextv2_atto"): (32, 64),
    ("transformers", "vit_small"): (48, 16),
    ("transformers", "dinov2_small"): (24, 40),
    ("timm", "dinov2_small_registers"): (24, 40),
    ("transformers", "dinov2_small_registers"): (24, 40),
    ("timm", "eva02_base"): (24, 40),
}


def timm_outputs(model, pictures):
    """(tokens, pooled) of timm, tokens [N,S,W]."""
    tokens = model.forward_features(pictures)
    pooled = model.forward_head(tokens, pre_logits=True)
    if tokens.ndim == 4:  # ConvNeXt has channels first
        tokens = (
            tokens.flatten(2).mT if tokens.shape[1] == pooled.shape[1] else tokens.flatten(1, 2)
        )
    return tokens, pooled


def transformers_outputs(model, pictures):
    """Likewise of transformers; ViTModel's own pooler is left out, as its classifier does."""
    resize = {"interpolate_pos_encoding": True} if type(model).__name__ == "ViTModel" else {}
    out = model(pictures, **resize)
    tokens = out.last_hidden_state
    pooled = tokens[:, 0] if out.pooler_output is None else out.pooler_output
    return (tokens.flatten(2).mT if tokens.ndim == 4 else tokens), pooled


CASES = [("timm", name) for name in TIMM] + [("transformers", name) for name in TRANSFORMERS]


@pytest.fixture(scope="module", params=CASES, ids=" ".join)
def case(request, tmp_path_factory):
    """(encoder, their model, its outputs, folder of its file, size of pictures)."""
    library, name = request.param
    encoder = tiny(name, **OWN_SIZES.get(request.param, {}))
    size = OTHER.get(request.param, (32, 32))
    folder = tmp_path_factory.mktemp("theirs")
    torch.set_num_threads(1)
    if library == "timm":
        architecture, sizes = TIMM[name]
        model = loud(timm().create_model(architecture, num_classes=3, **sizes))
        save_file(model.state_dict(), folder / "model.safetensors")
        return encoder, model, timm_outputs, folder, size
    architecture, sizes = TRANSFORMERS[name]
    config = getattr(transformers, f"{architecture}Config")(**sizes)
    options = {"add_pooling_layer": False} if architecture == "ViT" else {}
    model = loud(getattr(transformers, f"{architecture}Model")(config, **options))
    model.save_pretrained(folder)
    return encoder, model, transformers_outputs, folder, size


@pytest.fixture(scope="module")
def params(case):
    encoder, _, _, folder, _ = case
    return encoders.load(encoder, str(folder))


def test_tokens_and_pooled_vectors_are_theirs(case, params):
    encoder, model, outputs, _, size = case
    pixels = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    with torch.inference_mode():
        theirs = outputs(model, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    inputs = {"pixels": jnp.asarray(pixels[:, None]), "slice_valid": jnp.ones((2, 1), bool)}
    tokens, mask, pooled = encode(encoder, params, inputs)
    assert mask.all()
    for ours, expected in zip((tokens, pooled), theirs, strict=True):
        np.testing.assert_allclose(ours, expected.numpy(), atol=TOLERANCE, rtol=0)


def test_the_file_is_written_back(case, params, tmp_path):
    encoder, model, _, folder, _ = case
    layout = encoder.layouts[type(model).__module__.startswith("transformers")]
    encoders.save(encoder, str(tmp_path / "back.safetensors"), params, layout)
    theirs, back = load_file(folder / "model.safetensors"), load_file(tmp_path / "back.safetensors")
    left_out = {name for name in theirs if name not in back}
    assert all(name.startswith("head.") or name.endswith("mask_token") for name in left_out)
    assert back.keys() <= theirs.keys()
    # a class token's position is written as a part of the token
    folded = {"embeddings.cls_token", "embeddings.position_embeddings"}
    changed = {name for name in back if not np.array_equal(back[name], theirs[name])}
    assert changed == (folded if "WithRegisters" in layout else set())


def timm_name(name):
    family, _, rest = name.partition("_")
    size, _, more = rest.partition("_")
    return {
        "convnextv2": f"convnextv2_{size}",
        "vit": f"vit_{size}_patch16_224",
        "dinov2": f"vit_{size}_patch14_{'reg4_' if more else ''}dinov2",
        "swinv2": f"swinv2_{size}_{more or 'window8'}_{'192to' if '12to' in more else ''}256",
        "eva02": f"eva02_{size}_patch14_{336 if size in ('tiny', 'small') else 448}",
    }[family]


def test_every_size_has_the_names_shapes_and_epsilons_of_timm():
    seen = []
    for encoder in registry.ENCODERS.values():
        if encoder.kind != "image":
            continue
        specs = spec.flatten(encoder.param_specs(encoder.cfg)).values()
        ours = {key: keys.published_shape(one) for one in specs for key in keys.layer_keys(one)}
        pixels = encoder.cfg.mean, encoder.cfg.std
        # rad_dino is dinov2_base but for its pixels; convnextv2_micro is not published
        if (ours, pixels) in seen or encoder.name in ("rad_dino", "convnextv2_micro"):
            continue
        seen.append((ours, pixels))
        with torch.device("meta"):
            model = timm().create_model(timm_name(encoder.name), num_classes=0)
        theirs = {name: tuple(x.shape) for name, x in model.state_dict().items()}
        assert ours == theirs, encoder.name
        assert pixels == (model.default_cfg["mean"], model.default_cfg["std"]), encoder.name
        # which the small models cannot tell for the last norm, whose input varies too much
        norms = [one.eps for one in model.modules() if isinstance(one, torch.nn.LayerNorm)]
        assert norms and set(norms) == {encoder.cfg.norm_eps}, encoder.name
