"""The programs that `--compile` compiles are those of the trainer, on the shapes of a config: each
is lowered for eight CPU devices, and what it takes is what was planned.
"""

import jax
import pytest
from helpers.plan import nano_case

from qoq_jax.models import spec, vlm
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.plan import compiled, hlo, instant, memory, programs, slots

CASE = nano_case(mesh__rollout_tensor=2, model__attention="einsum")


@pytest.fixture(scope="module")
def mesh():
    return mesh_lib.make_mesh(data=1, fsdp=4, tensor=2)


@pytest.mark.parametrize("name", ["reshard", "prefill", "decode", "scorer", "update"])
def test_every_program_of_a_step_is_lowered(name, mesh):
    assert name in [one.name for one in instant.plan_stage(CASE).programs]
    assert "func.func public @main" in programs.lower(CASE, name, mesh).as_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("sft", {}),
        ("rl", {"lora__rank": 4}),
        ("rl", {"rl__algorithm": "ppo", "rl__minibatches": 2}),
    ],
    ids=["sft", "adapters", "a critic"],
)
def test_other_updates_are_lowered(stage, changes, mesh):
    case = nano_case(stage, mesh__fsdp=2, mesh__tensor=4, model__attention="einsum", **changes)
    there = mesh_lib.make_mesh(data=1, fsdp=2, tensor=4)
    assert "func.func public @main" in programs.lower(case, "update", there).as_text()


@pytest.fixture(scope="module")
def update():
    """(its case, a compiled update of supervised training, rows and weights over eight devices)."""
    where = {"mesh__fsdp": 8, "mesh__tensor": 1}
    # nothing is padded
    case = nano_case("sft", "h100:1x8", model__attention="einsum", model__remat="full", **where)
    return case, programs.lower(case, "update", mesh_lib.make_mesh(fsdp=8)).compile()


@pytest.mark.slow
def test_arguments_of_a_compiled_update_are_the_planned_bytes(update):
    """Within 1 %: the state, and the batch but for what the loss does not read."""
    case, program = update
    facts = program.memory_analysis()
    assert facts.argument_size_in_bytes == pytest.approx(compiled.update_arguments(case), rel=0.01)


@pytest.mark.slow
def test_an_update_gathers_weights_once_a_direction_and_sums_gradients_once(update):
    case, program = update
    moved = hlo.traffic(program.as_text()).collectives
    weights = 4 * spec.count(case.specs)
    assert moved["all-gather"] < 2.1 * weights
    assert moved["all-reduce"] + moved["reduce-scatter"] < 1.2 * weights


def test_a_decode_step_gathers_no_weights_and_sums_nothing_larger_than_logits(mesh):
    program = programs.lower(CASE, "decode", mesh).compile()
    largest = hlo.traffic(program.as_text()).largest
    rows = CASE.stage.rl.questions * CASE.stage.rl.rollouts / CASE.rollout_ways
    logits = 4 * rows * CASE.model.decoder.vocab_size / CASE.rollout_tensor
    assert 0 < largest["all-reduce"][0] <= logits
    assert largest.get("all-gather", (0,))[0] <= logits


def test_arguments_of_a_compiled_program_are_the_planned_bytes(mesh):
    """Moving the weights takes the parameters and makes the sampler's."""
    facts = programs.lower(CASE, "reshard", mesh).compile().memory_analysis()
    assert facts.argument_size_in_bytes == memory.reference(CASE)
    assert facts.output_size_in_bytes == pytest.approx(slots.sampling_weights(CASE), rel=0.01)


@pytest.mark.parametrize("name", ["embed", "prefill", "decode"])
def test_all_weights_of_the_sampler_are_in_the_peak(name, mesh):
    """Also those that the program does not read: they lie on the devices all the same."""
    case = nano_case(mesh__rollout_tensor=2, model__attention="einsum", rl__rollout_rows=12)
    lowered = programs.lower(case, name, mesh)
    arguments, _ = lowered.args_info
    wanted = jax.tree.leaves(vlm.sampling_specs(case.model))
    assert len(jax.tree.leaves(arguments[0])) == len(wanted)
    signature = lowered.as_text().partition("@main(")[2].partition(") ->")[0]
    assert signature.count("%arg") == len(jax.tree.leaves(arguments))


@pytest.mark.parametrize("name", ["embed", "prefill"])
def test_prompts_that_wait_for_places_have_programs_of_their_own(name, mesh):
    case = nano_case(mesh__rollout_tensor=2, model__attention="einsum", rl__rollout_rows=12)
    assert name in [one.name for one in instant.plan_stage(case).programs]
    assert "func.func public @main" in programs.lower(case, name, mesh).as_text()


def test_what_lies_beside_a_program_is_what_it_does_not_take():
    plan = instant.plan_stage(nano_case("rl", "h100:1x8", mesh__rollout_tensor=2))
    state, reference = memory.parameters(CASE) + memory.moments(CASE), memory.reference(CASE)
    assert compiled.resident(plan, "update") == reference
    assert compiled.resident(plan, "scorer") == state
    assert compiled.resident(plan, "decode") == state + reference
    assert compiled.resident(plan, "reshard") == memory.moments(CASE) + reference
