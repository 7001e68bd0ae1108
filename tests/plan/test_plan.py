"""`qoq plan`: rooflines, verdicts, proposals, search, cost, and what the command prints."""

import json
import pathlib

import jax
import pytest
from helpers.plan import nano_case, nano_config

from qoq_jax.base.errors import ConfigError, QoqError
from qoq_jax.cli.main import main
from qoq_jax.plan import advice, cost, devices, flops, instant, search, traffic
from qoq_jax.plan.change import changed, overrides

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
TIGHT = f"--config={CONFIGS / 'qoq_med_7b.py'}:v5e-4x4"
QUICK = [
    f"--config={CONFIGS / 'quickstart.py'}",
    "--config.data.media_rows=4",
    "--topology=v5e:2x2",
    "--mesh=fsdp=4",
]


# 4 questions of up to 32,768 tokens: fewer rows than devices
LONG = {
    **dict.fromkeys(("data.media_rows", "rl.questions", "eval.rows", "sft.rows"), 4),
    "data.max_prompt_tokens": 32768,
    "rl.accumulate": 1,
}


def config_7b(**changes):
    from qoq_jax.train import config as config_lib

    read = config_lib.parse(config_lib.load(str(CONFIGS / "qoq_med_7b.py") + ":v5e-4x4"))
    return changed(read, {"stages": ("rl",)} | changes)


def stage_of(cfg, topology="v5e:4x4"):
    return instant.plan(cfg, devices.parse(topology))[0]


# ----------------------------------------------------------------------------------------- roofline


def test_the_programs_of_a_step():
    plan = stage_of(config_7b())
    calls = {one.name: one.calls for one in plan.programs}
    # 64 prompts, 8 at a time, x 5 responses in two waves of 160; one update
    sampled = {"reshard": 1, "embed": 1, "prefill": 8, "decode": 8000}
    assert calls == {**sampled, "scorer": 1, "update": 1}
    assert plan.step_seconds == sum(one.calls * one.bound for one in plan.programs)
    assert [one.name for one in stage_of(nano_config(stages=("sft",)), "v5e:2x4").programs] == [
        "update"
    ]


def test_a_greedy_baseline_and_a_critic_cost_more_calls():
    def calls(algorithm):
        plan = instant.plan_stage(nano_case(rl__algorithm=algorithm))
        return {one.name: one.calls for one in plan.programs}

    usual = calls("grpo")
    assert calls("remax")["decode"] == 2 * usual["decode"]
    assert calls("ppo")["scorer"] == usual["scorer"] + 1


def test_several_updates_share_the_work():
    one = instant.plan_stage(nano_case(mesh__fsdp=2, mesh__tensor=4))
    two = instant.plan_stage(nano_case(mesh__fsdp=2, mesh__tensor=4, rl__minibatches=2))
    assert two.programs[-1].calls == 2
    assert two.programs[-1].model_flops == one.programs[-1].model_flops / 2


def test_frozen_towers_are_only_run_forward():
    load = instant.load_of(nano_case(), "update")
    model = nano_case().model
    whole = flops.model_and_hardware(model, load, "policy")[0]
    frozen = flops.model_and_hardware(model, load, "policy", frozen=("vision",))[0]
    assert whole - frozen == 2 * flops.forward(model, load, "policy")["vision"]


def test_gradients_alone_cross_the_network_between_slices():
    one = stage_of(config_7b(**{"mesh.data": 1}))
    cfg = config_7b(**{"mesh.data": 2, "data.media_rows": 128, "rl.questions": 128})
    two = stage_of(changed(cfg, {"eval.rows": 128, "sft.rows": 128}), "2*v5e:4x4")
    before, after = one.programs[-1], two.programs[-1]
    assert before.network == 0 < after.network
    assert after.links == pytest.approx(before.links)
    assert "network" in after.seconds


def test_weights_that_are_cut_over_nodes_cross_the_network():
    cfg = changed(nano_config(), {"mesh.fsdp": 8, "mesh.tensor": 1})
    within, across = (stage_of(cfg, text).programs[-1] for text in ("h100:1x8", "h100:2x4"))
    assert within.network == 0 < across.network
    assert within.links > across.links


def test_an_update_moves_each_weight_three_times():
    """Gathered once a direction, its gradient summed once; on a TPU a sum counts twice."""
    model = nano_case(mesh__fsdp=8, mesh__tensor=1, model__compute_dtype="bfloat16")
    load = instant.load_of(model, "update")
    moved = {
        text: traffic.moved(
            nano_case(
                topology=text,
                mesh__fsdp=8,
                mesh__tensor=1,
                model__compute_dtype="bfloat16",
                model__attention="einsum",
            ),
            "policy",
            load,
        ).links
        for text in ("v5e:2x4", "h100:1x8")
    }
    weights = sum(
        2 * one
        for one in (
            # all but what is read in float32, and biases and norms, which are whole everywhere
            traffic.math.prod(leaf.shape)
            for leaf in traffic.spec.flatten(model.specs).values()
            if "embed" in leaf.axes
        )
    )
    assert moved["v5e:2x4"] - moved["h100:1x8"] == pytest.approx(weights)


def test_rows_cut_by_tokens_are_between_rows_and_heads():
    """As much memory as rows alone, more over the links, but less than sums over tensor."""
    rows, tokens, heads = (
        stage_of(config_7b(**{"mesh.fsdp": 4, "mesh.rollout_tensor": 4} | changes))
        for changes in ({"mesh.fsdp": 16}, {"mesh.sequence": 4}, {"mesh.tensor": 4})
    )
    for part in ("parameters", "moments", "layer inputs", "layer at work"):
        assert tokens.phases["update"][part] == rows.phases["update"][part] > 0
    links = [plan.programs[-1].links for plan in (rows, tokens, heads)]
    assert [plan.programs[-1].name for plan in (rows, tokens, heads)] == ["update"] * 3
    assert links == sorted(links) and links[0] < links[1]


# ------------------------------------------------------------------------------ what does not go


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh.fsdp": 8}, "v5e:4x4: mesh data=1 fsdp=8 tensor=1 does not fit 16 devices"),
        ({"mesh.fsdp": 2, "mesh.sequence": 8}, "4 key-value heads do not divide over 8 devices"),
        (
            {"mesh.fsdp": 4, "mesh.sequence": 4, "data.max_prompt_tokens": 4095},
            "data.max_prompt_tokens = 4095 does not divide over mesh.sequence = 4",
        ),
        ({"mesh.fsdp": 4, "mesh.tensor": 4, "rl.accumulate": 64}, "set data.media_rows"),
        (LONG | {"mesh.fsdp": 16}, "multiple of 16, or .* mesh.fsdp=4 mesh.sequence=4"),
        ({"mesh.rollout_tensor": 3}, "does not divide 16 devices"),
        ({"model.variant": "Qwen/Qwen9"}, "planned without a download"),
        ({"stages": ("ecg",)}, "trains no multimodal model"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        stage_of(config_7b(**changes))


def test_a_mesh_over_slices_needs_data():
    cfg = config_7b(**{"mesh.data": 1, "mesh.fsdp": 32})
    with pytest.raises(ConfigError, match="make mesh.data a multiple of 2"):
        stage_of(cfg, "2*v5e:4x4")


# ------------------------------------------------------------------------------ advice and search


def test_proposals_say_what_they_give():
    cfg = config_7b(**{"model.remat": "full", "rl.accumulate": 1, "rl.offload_reference": False})
    plan = stage_of(cfg)
    assert plan.verdict == "does not fit"
    assert plan.spare < 0
    found = advice.proposals(plan.case.config, plan.case.topology, plan)
    named = [name for one in found for name in one.changes]
    assert {"rl.accumulate", "model.remat", "rl.offload_reference", "lora.rank"} <= set(named)
    assert "mesh.sequence" in named
    assert all(one.changes.get("mesh.tensor", 1) == 1 for one in found)
    assert all(one.plan.peak < plan.peak for one in found)
    for one in found:
        again = stage_of(changed(plan.case.config, one.changes), str(one.topology))
        assert again.peak == one.plan.peak
    assert found[-1].plan.spare >= 0, "together they fit"


def test_where_rows_are_fewer_than_devices_tokens_are_cut_and_not_heads():
    plan = stage_of(config_7b(**LONG, **{"mesh.fsdp": 4, "mesh.tensor": 4}))
    found = advice.proposals(plan.case.config, plan.case.topology, plan)
    changes = [dict(one.changes) for one in found]
    assert {"mesh.tensor": 1, "mesh.sequence": 4} in changes
    best = search.search(config_7b(**LONG), devices.parse("v5e:4x4"))[0]
    assert (best.changes["mesh.sequence"], best.changes["mesh.tensor"]) == (4, 1)
    assert best.peak < plan.peak


def test_where_tokens_do_not_divide_heads_are_cut():
    changes = {"mesh__fsdp": 4, "mesh__tensor": 1, "rl__response_tokens": 45, "rl__rollouts": 3}
    plan = stage_of(nano_config(stages=("rl",), data__max_prompt_tokens=255, **changes), "v5e:2x2")
    ideas = [dict(changes) for changes, *_ in advice._by_tokens(plan.case.config, plan)]
    assert ideas == [{"mesh.fsdp": 2, "mesh.tensor": 2}]


def test_einsum_attention_is_told_of():
    plan = stage_of(config_7b(**{"model.attention": "einsum", "rl.accumulate": 1}))
    found = advice.proposals(plan.case.config, plan.case.topology, plan)
    assert {"model.attention": "splash"} in [one.changes for one in found]


def test_search_finds_layouts_that_fit_the_fastest_first():
    cfg = config_7b(**{"mesh.fsdp": 1, "rl.offload_reference": False})
    found = search.search(cfg, devices.parse("v5e:4x4"))
    assert found
    assert all(one.fits for one in found)
    assert found[0].seconds == pytest.approx(min(one.seconds for one in found), rel=0.06)
    best = found[0]
    plan = stage_of(changed(cfg, best.changes))
    assert plan.peak == best.peak
    assert best.changes["rl.offload_reference"], "nothing fits with the reference on the devices"


# -------------------------------------------------------------------------------------------- cost


def test_cost_of_a_run(tmp_path):
    plans = [stage_of(config_7b())]
    prices = tmp_path / "prices.json"
    prices.write_text('{"currency": "USD", "chip_hour": {"v5e": 2.0}}')
    at_peak, half = (cost.cost(plans, mfu, cost.read_prices(str(prices))) for mfu in (1.0, 0.4))
    assert at_peak.hours == pytest.approx(plans[0].steps * plans[0].step_seconds / 3600)
    assert half.hours > 1.5 * at_peak.hours
    assert half.price == pytest.approx(half.hours * 16 * 2.0)
    assert half.chip_hours == half.hours * 16
    assert cost.cost(plans, 0.4, None).price is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no prices can be read"),
        ("[]", "holds no prices"),
        ('{"chip_hour": {"v5": 1}}', "did you mean 'v5"),
        ('{"chip_hour": {"v5e": "1"}}', "chip_hour of v5e = '1'"),
        ('{"chip_hour": {"v5e": true}}', "chip_hour of v5e = True"),
    ],
)
def test_broken_prices_are_refused(tmp_path, text, message):
    prices = tmp_path / "prices.json"
    prices.write_text(text)
    with pytest.raises(ConfigError, match=message):
        cost.read_prices(str(prices))


@pytest.fixture
def h100_prices(tmp_path):
    """A file with the price of an H100 alone."""
    prices = tmp_path / "prices.json"
    prices.write_text('{"chip_hour": {"h100": 2.0}}')
    return str(prices)


def test_a_price_that_is_missing_is_named(h100_prices):
    with pytest.raises(ConfigError, match="no price of v5e"):
        cost.cost([stage_of(config_7b())], 0.4, cost.read_prices(h100_prices))


# ----------------------------------------------------------------------------------------- command


def test_the_command_prints_tables(capsys):
    assert main(["plan", *QUICK]) == 0
    said = capsys.readouterr().out
    for words in ("stage rl of nano on v5e:2x2", "KV cache", "fits:", "MFU at most", "hours"):
        assert words in said


def test_the_command_prints_json(capsys):
    assert main(["plan", *QUICK, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    stage = content["stages"][1]
    assert stage["peak"] == max(sum(phase.values()) for phase in stage["phases"].values())
    assert {one["name"] for one in stage["programs"]} >= {"update", "decode"}
    assert content["cost"]["mfu"] == 0.4


def test_what_does_not_fit_ends_with_one(capsys):
    assert main(["plan", TIGHT, "--topology=v5e:4x4", "--config.model.remat=none"]) == 1
    said = capsys.readouterr().out
    assert "does not fit" in said
    assert "--config.model.remat=full" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--mesh=fsdp"], "write --mesh fsdp=16,tensor=1"),
        (["--mesh=rows=4"], "write --mesh"),
        (["--mfu=2"], "give a share of the peak"),
        (["--prices=nowhere.json"], "nowhere.json"),
    ],
)
def test_mistakes_of_the_command_exit_with_two(more, message, capsys):
    assert main(["plan", *QUICK, *more]) == 2
    assert message in capsys.readouterr().err


def test_without_the_compiler_one_line_says_what_to_install(monkeypatch, capsys):
    from qoq_jax.plan import compiled

    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    assert main(["plan", *QUICK, "--compile"]) == 2
    said = capsys.readouterr().err.strip()
    assert 'pip install "jax[tpu]"' in said
    assert len(said.splitlines()) == 1


@pytest.fixture
def compiler(monkeypatch):
    """A compiler of TPUs that describes no topology; returns what it was asked."""
    from qoq_jax.plan import compiled

    asked = []

    def describe(**options):
        asked.append(options)
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: not divisible")

    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(compiled.topologies, "get_topology_desc", describe)
    compiled.described.cache_clear()
    return asked


def test_a_topology_that_the_compiler_refuses_is_one_line(compiler, capsys):
    assert main(["plan", QUICK[0], "--topology=v5e:3x3", "--compile"]) == 2
    said = capsys.readouterr().err
    assert "the compiler knows no v5e:3x3: INVALID_ARGUMENT" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("topology", "bounds"), [("v5e:1x1", [1, 1, 1]), ("v5e:2x2", None), ("v5p:2x2x1", None)]
)
def test_a_single_chip_is_a_host_of_one(topology, bounds, compiler):
    """libtpu takes hosts of four chips if nothing else is said."""
    from qoq_jax.plan import compiled

    with pytest.raises(ConfigError):
        compiled.described(devices.parse(topology))
    assert compiler[0].get("chips_per_host_bounds") == bounds


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--compile=updat"], "did you mean 'update'?"),
        (["--compile"], "the compiler knows no v5e:2x2"),
        (["--prices={prices}"], "no price of v5e"),
        (["--mesh=rows=4"], "--search and --mesh"),
        (["--config.stages=ecg"], "stage ecg trains no multimodal model"),
    ],
)
def test_arguments_are_checked_before_the_search(
    more, message, compiler, tmp_path, monkeypatch, capsys
):
    prices = tmp_path / "prices.json"
    prices.write_text('{"chip_hour": {"h100": 2.0}}')
    more = [one.format(prices=prices) for one in more]
    monkeypatch.setattr(search, "search", lambda *_: pytest.fail("it was searched"))
    assert main(["plan", *QUICK[:3], "--search", *more]) == 2
    assert message in capsys.readouterr().err


def test_a_program_is_compiled_for_the_stages_that_have_it(monkeypatch, capsys):
    from qoq_jax.plan import compiled

    monkeypatch.setattr(compiled, "check", lambda topology: None)
    done = []

    def measure(case, name):
        done.append((case.stage.name, name))
        raise ConfigError("enough")

    monkeypatch.setattr(compiled, "measure", measure)
    assert main(["plan", *QUICK, "--compile=decode"]) == 2
    assert done == [("rl", "decode")]
    assert main(["plan", *QUICK, "--config.stages=sft", "--compile=decode"]) == 2
    assert "no program of stage sft" in capsys.readouterr().err


def test_a_program_that_does_not_compile_names_what_would_lower_its_peak(monkeypatch):
    """And not the plan that said "ask --compile"."""
    from qoq_jax.plan import compiled

    def too_large(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory")

    monkeypatch.setattr(compiled, "mesh_of", lambda case: None)
    monkeypatch.setattr(compiled.programs, "lower", too_large)
    with pytest.raises(QoqError) as failed:
        compiled.measure(nano_case(), "update")
    said = str(failed.value)
    assert "update does not compile: RESOURCE_EXHAUSTED" in said
    assert "model.remat=offload, a larger rl.accumulate" in said
    assert "--compile" not in said


def test_ecg_pretraining_has_no_layouts(capsys):
    config = f"--config={CONFIGS / 'ecg_jepa.py'}"
    assert main(["plan", config, "--topology=v5e:2x2", "--search"]) == 2
    assert "trains no multimodal model" in capsys.readouterr().err


def test_where_no_layout_fits_the_smallest_is_shown(capsys):
    """And nothing sends the user back to the plan that sent him here."""
    where = ["plan", TIGHT, "--topology=v5e:1x1", "--config.stages=rl"]
    assert main([*where, "--search"]) == 1
    said = capsys.readouterr().out
    assert "no layout of v5e:1x1 fits: stage rl needs at least" in said
    assert "--config.model.remat=offload" in said
    assert "--search" not in said
    layout = search.smallest(config_7b(), devices.parse("v5e:1x1"))
    assert layout.peak > layout.plans[0].capacity
    assert layout.peak == stage_of(changed(config_7b(), layout.changes), "v5e:1x1").peak


def test_where_no_mesh_divides_the_rows_it_says_by_what(capsys):
    assert main(["plan", QUICK[0], "--topology=h100:1x8", "--search"]) == 1
    assert "data.media_rows = 1: make it 8 or a multiple" in capsys.readouterr().out


def test_overrides_can_be_pasted():
    changes = {"mesh.fsdp": 8, "rl.offload_reference": True, "lora.targets": ("vision", "ecg")}
    assert overrides(changes) == (
        "--config.mesh.fsdp=8 --config.rl.offload_reference=true --config.lora.targets=vision,ecg"
    )
