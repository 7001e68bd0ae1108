"""Planned bytes of a device equal those of real arrays on eight devices."""

import types

import jax
import pytest
from helpers.plan import nano_case

from qoq_jax.models import spec, vlm
from qoq_jax.parallel import hosts
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.plan import case as case_lib
from qoq_jax.plan import memory, slots
from qoq_jax.sampling import layout, loop
from qoq_jax.train import setup as setup_lib
from qoq_jax.train import stage_run


def bytes_of_devices(tree):
    """{bytes that a device holds of real arrays}, one number where all hold the same."""
    found = dict.fromkeys(jax.devices(), 0)
    for x in jax.tree.leaves(tree):
        for shard in x.addressable_shards:
            found[shard.device] += shard.data.nbytes
    return set(found.values())


def mesh_of(case):
    sizes = case.config.mesh
    return mesh_lib.make_mesh(sizes.data, sizes.fsdp, sizes.tensor)


SMALL_ROWS = {
    "data__max_patches": 72,
    "data__mean_patches": 64,
    "data__max_prompt_tokens": 76,
    "data__frame_max_pixels": 84 * 84,
}
VARIANTS = {
    "all weights": {},
    "a critic": {"rl__algorithm": "ppo"},
    "adapters": {"lora__rank": 4},
    "frozen weights": {"optimizer__frozen": ("vision", "ecg")},
    "a history": {"rl__drpo__history_size": 16},
    "copies": {"mesh__data": 2, "mesh__fsdp": 2},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_weights_and_moments(changes):
    case = nano_case(**changes)
    setup = types.SimpleNamespace(config=case.config, model=case.model, mesh=mesh_of(case))
    state, _, base = stage_run.start_state(setup, case.stage, None)
    assert bytes_of_devices(state.params) == {memory.parameters(case)}
    assert bytes_of_devices(state.opt_state) == {memory.moments(case)}
    assert bytes_of_devices(state) == {memory.device_bytes(case.state)}
    if base is not None:
        assert bytes_of_devices(base) == {memory.reference(case)}


@pytest.mark.parametrize(("ways", "dtype"), [(1, "auto"), (2, "int8"), (4, "auto")])
def test_the_cache_of_sampling(ways, dtype):
    case = nano_case(mesh__rollout_tensor=ways, rl__kv_cache_dtype=dtype)
    there = mesh_lib.rollout_mesh(mesh_of(case), ways)

    def empty():
        return loop.empty_slots(case.model, *slots.sizes(case))

    with jax.set_mesh(there):
        cache = jax.jit(empty)().cache
    keys = (cache.prompt_k, cache.prompt_v, cache.response_k, cache.response_v)
    planned = slots.shapes(case.model, case.rollout_mesh, slots.sizes(case)).cache
    exact = (planned.prompt_k, planned.prompt_v, planned.response_k, planned.response_v)
    assert bytes_of_devices(keys) == {memory.device_bytes(exact)}
    assert slots.cache_bytes(case) == memory.device_bytes(planned)


@pytest.mark.parametrize(("ways", "form"), [(2, "auto"), (2, "int8"), (0, "int8")])
def test_the_weights_of_the_sampler(ways, form):
    case = nano_case(
        mesh__rollout_tensor=ways, model__compute_dtype="bfloat16", rl__rollout_weights=form
    )
    mesh = mesh_of(case)
    there = layout.Layout(case.model, mesh, ways, form)
    specs = vlm.param_specs(case.model)
    weights = jax.jit(
        lambda: spec.init_params(specs, jax.random.key(0)),
        out_shardings=spec.shardings(specs, mesh),
    )()
    with jax.set_mesh(mesh):
        laid = there.weights(weights)
    assert bytes_of_devices(laid) == {slots.sampling_weights(case)}
    assert bytes_of_devices(weights) == {memory.reference(case)}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_a_batch(stage, data_root):
    """Of the training rows, as the loader makes it and the trainer lays it over the devices."""
    data = {"data__root": data_root, "data__real": False, "data__mini_rows": 24}
    case = nano_case(stage, **data, **SMALL_ROWS)
    setup = setup_lib.assemble(case.config)
    batch, _ = next(setup.training_iterator(stage, answers=stage == "sft"))
    real = hosts.to_global(batch, mesh_lib.batch_sharding(mesh_of(case)))
    assert bytes_of_devices(real) == {
        memory.device_bytes(case_lib.batch_on(case.budget, case.mesh))
    }


def test_where_things_lie():
    """The reference may be in the host's memory between its uses, moments between updates."""
    usual = memory.phases(nano_case())
    moved = memory.phases(nano_case(rl__offload_reference=True, optimizer__offload=True))
    assert "reference" not in moved["update"]
    assert moved["scorer"]["reference"] == usual["scorer"]["reference"]
    assert "moments" not in moved["decode"]
    assert moved["update"]["moments"] == usual["update"]["moments"]
    assert "reference" not in memory.phases(nano_case(lora__rank=4))["update"]


def test_micro_batches_lower_what_is_on_the_way_and_add_a_sum():
    one, two = (
        nano_case(mesh__fsdp=2, mesh__tensor=4),
        nano_case(mesh__fsdp=2, mesh__tensor=4, rl__accumulate=4),
    )
    assert memory.tokens(two) == memory.tokens(one) / 4
    assert memory.gradients(two) == memory.gradients(one) + memory.parameters(two)
