"""Plans of encoders, from shapes."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import pytest

from qoq_jax.base.errors import ConfigError
from qoq_jax.cli import main
from qoq_jax.models.encoders import registry
from qoq_jax.plan import devices, encoder
from qoq_jax.transfer import config

CONFIG = "configs/climb_multitask.py"


def plan(topology="v5e:2x2", **fields):
    raw = config.default()
    for name, value in fields.items():
        section, _, last = name.rpartition("__")
        (raw[section] if section else raw)[last] = value
    return encoder.plan(config.parse(raw), devices.parse(topology))


def test_products_are_counted_as_often_as_a_loop_runs():
    kernel = jnp.zeros((3, 3, 4, 8))  # [y,x,in,out]

    def program(x, image):
        x = jax.lax.scan(lambda x, _: (x @ jnp.ones((8, 8)), None), x, length=5)[0]
        dims = ("NHWC", "HWIO", "NHWC")
        return x, jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=dims
        )

    made = jax.make_jaxpr(jax.jit(program))(jnp.zeros((2, 8)), jnp.zeros((1, 6, 6, 4)))
    assert sum(encoder.products(made.jaxpr)) == 5 * 2 * 2 * 8 * 8 + 2 * 36 * 8 * 9 * 4


def test_a_step_is_three_forward_passes_and_what_is_computed_again():
    found = plan(training__batch=64)
    tokens, width, depth = 64 * 400, 64, 2
    forward = 2 * tokens * depth * 12 * width**2
    assert 3 * forward < found.flops < 5 * forward


def test_more_devices_hold_less_each():
    one, four = (plan(shape, training__batch=64) for shape in ("v5e:1x1", "v5e:2x2"))
    assert one.activations == pytest.approx(4 * four.activations, rel=0.02)
    assert one.flops == four.flops
    assert one.reduce == 0 < four.reduce
    cut = plan("v5e:2x2", training__batch=64, mesh__data=1, mesh__fsdp=4)
    assert cut.state < four.state / 2


def test_what_has_no_shape_or_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match="encoder gcn: a graph has no size of its own"):
        plan(encoder="gcn")
    with pytest.raises(ConfigError, match="30 rows does not divide over 4 devices"):
        plan(training__batch=30)


def test_qoq_plan_takes_the_config_of_an_encoder(capsys):
    arguments = ["plan", f"--config={CONFIG}", "--topology=v5e:4x4"]
    assert main.main(arguments) == 0
    assert "fits: " in capsys.readouterr().out
    assert main.main([*arguments, "--json", "--mesh=fsdp=16"]) == 0
    assert json.loads(capsys.readouterr().out)["mesh"]["fsdp"] == 16
    assert main.main([*arguments, "--search"]) == 2
    assert "--search is not for the config of an encoder" in capsys.readouterr().err
    assert main.main([*arguments, "--mesh=fsdp=8,sequence=2"]) == 2
    assert "mesh.sequence = 2: an encoder on labels" in capsys.readouterr().err


def test_a_sample_of_labram_has_its_electrodes():
    labram = registry.get("labram_small")
    made = encoder.sample_shapes(labram, frames=1, rows=2)
    assert made["channel_valid"].shape == (2, len(labram.cfg.electrodes))
