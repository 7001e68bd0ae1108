"""Configs: every file loads, every field is read by code, every mistake stops with a suggestion."""

from __future__ import annotations

import ast
import dataclasses
import json
import pathlib
import re
import typing

import ml_collections
import pytest

from qoq_jax.base import lock
from qoq_jax.base.errors import ConfigError
from qoq_jax.cli.main import main
from qoq_jax.data.answer_format import COORDINATES
from qoq_jax.models.config import ModelConfig
from qoq_jax.rewards.score import PRESETS, RewardConfig
from qoq_jax.rl.algorithms import ALGORITHMS, SUPERVISED
from qoq_jax.rl.config import Algorithm
from qoq_jax.rl.drpo import DRPOConfig
from qoq_jax.train import config
from qoq_jax.transfer import config as transfer
from qoq_jax.transfer import fusion_config

REPOSITORY = pathlib.Path(__file__).parents[2]
CONFIGS = sorted((REPOSITORY / "configs").glob("*.py"))


def variants_of(path: pathlib.Path) -> list[str]:
    """The arguments that a config's docstring shows, "" for none."""
    return sorted(set(re.findall(rf"{path.name}:?([\w-]*)", path.read_text().split('"""')[1])))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_and_tells_how_to_run_it(path):
    docstring = path.read_text().split('"""')[1]
    assert "qoq train --config=configs/" in docstring
    assert re.search(r"\d+ (minutes|min|s|seconds|hours)", docstring), (
        "the docstring must say how long it takes"
    )
    shown = variants_of(path)
    assert shown
    parsers = {
        "": config.parse,
        transfer.KIND: transfer.parse,
        fusion_config.KIND: fusion_config.parse,
    }
    parse = parsers[config.kind_of(str(path))]
    for argument in shown:
        parse(config.load(f"{path}:{argument}" if argument else str(path)))


def test_every_field_is_read_by_code():
    code = "\n".join(
        p.read_text() for p in (REPOSITORY / "qoq_jax").rglob("*.py") if p.name != "train/config.py"
    )

    def leaves(cls):
        for field in dataclasses.fields(cls):
            value = getattr(cls(), field.name) if cls is not DRPOConfig else None
            if dataclasses.is_dataclass(value) and not isinstance(
                value, (DRPOConfig, RewardConfig)
            ):
                yield from leaves(type(value))
            else:
                yield field.name

    names = [*leaves(config.Config), *leaves(transfer.TransferConfig)]
    unread = [name for name in names if not re.search(rf"\.{name}\b", code)]
    assert not unread, f"config fields that no code reads: {unread}"


def test_every_algorithm_can_be_chosen():
    assert typing.get_args(Algorithm) == (SUPERVISED, *ALGORITHMS)


def test_every_way_to_write_boxes_can_be_chosen():
    choices = typing.get_type_hints(ModelConfig)["box_coordinates"]
    assert typing.get_args(choices) == ("", *COORDINATES)


def test_a_second_process_in_a_workdir_is_refused(tmp_path, capsys):
    arguments = [
        "train",
        f"--config={REPOSITORY / 'configs/quickstart.py'}",
        f"--config.workdir={tmp_path}",
    ]
    with lock.hold(str(tmp_path)):
        assert main(arguments) == 2
    assert f"qoq: {tmp_path}: is in use by process " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [], "nothing was written"


def test_dict_and_back():
    assert config.parse(config.default()) == config.Config()
    assert config.parse(dataclasses.asdict(config.Config())) == config.Config()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.rl.lrr=1", "did you mean 'lr'"),
        ("--config.rll.lr=1", "did you mean 'rl'"),
        ("--config.rl.steps=many", "is not a int"),
        ("--config.rl=1", "is a section"),
        ("--config.rl.lr", "write --config.section.field=value"),
        ("--config.rl.lr 1e-4", "write --config.rl.lr=1e-4"),
        ("--config.rl.algorithm=drop", "did you mean 'drpo'"),
        ("--config.rl.rollouts=1", "at least 2"),
        ("--config.stages=rl,sft", "in the order sft, align, rl"),
        ("--config.rl.importance_cap=2", "set rl.old_logprobs=trainer"),
        ("--config.rl.clip_dual=0.5", "above 1 (inf = none)"),
        ("--config.rl.kl_in=gradient", "none of loss, reward"),
        ("--config.eval.best=true", "set eval.every"),
        ("--config.align.domains=ecgs", "did you mean 'ecg'"),
        ("--config.sft.steps=0", "must be positive"),
        ("--config.rl.top_p=0", "must be positive"),
        ("--config.optimizer.max_skipped=0", "must be positive"),
        ("--config.rl.critic.gae_lambda=5", "must be at most 1"),
        ("--config.eval.patience=-1", "must not be negative"),
        ("--config.rl.lr=nan", "rl.lr is not a number"),
        ("--config.rl.kl_in=reward", "set rl.kl_in=loss"),
        ("--config.rl.drpo.num_domains=3", "set it to 11"),
        ("--config.data.media_rows=5", "not divisible"),
        ("--config.rl.minibatches=3", "does not divide"),
        ("--config.stages=ecg,sft", "a run of its own"),
        ("--config.ecg.mask=blocks", "did you mean 'block'"),
        ("--config.ecg.mask_high=1.0", "hides nothing or everything"),
    ],
)
def test_mistakes_exit_with_two_and_a_hint(override, message, capsys):
    assert (
        main(["train", f"--config={REPOSITORY / 'configs/quickstart.py'}", *override.split(" ")])
        == 2
    )
    assert message in capsys.readouterr().err


def test_missing_config_file_suggests_the_nearest(capsys):
    assert main(["train", f"--config={REPOSITORY / 'configs/quickstrat.py'}"]) == 2
    assert "did you mean 'quickstart.py'" in capsys.readouterr().err


def test_mistakes_inside_a_config_file_exit_with_two(tmp_path, capsys):
    assert main(["train", f"--config={REPOSITORY / 'configs/quickstart.py'}:foo"]) == 2
    assert "use drpo, grpo or smoke" in capsys.readouterr().err
    file = tmp_path / "mine.py"
    file.write_text(
        "from qoq_jax import config as c\ndef get_config(arg=''):\n    x = c.default()\n    "
        "x.sfft.steps = 3\n    return x\n"
    )
    assert main(["train", f"--config={file}"]) == 2
    assert "get_config failed (AttributeError" in capsys.readouterr().err


def test_a_refused_config_leaves_the_workdir_free(tmp_path, capsys):
    arguments = [
        "train",
        f"--config={REPOSITORY / 'configs/quickstart.py'}",
        f"--config.workdir={tmp_path / 'run'}",
    ]
    assert main([*arguments, "--config.model.variant=nona"]) == 2
    assert "unknown model variant" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()


def test_unknown_keys_and_types_in_a_file():
    broken = config.default()
    broken.rl.unlock()
    broken.rl.learning_rate = 1.0
    with pytest.raises(ConfigError, match="unknown config key 'rl.learning_rate'"):
        config.parse(broken)
    with pytest.raises(ConfigError, match="sft.lr = 'high' is a str"):
        config.parse({"sft": {"lr": "high"}})
    assert config.parse({"sft": {"lr": 1}}).sft.lr == 1.0


def test_a_config_json_of_an_older_version_lacks_fields_and_is_the_same_config():
    cfg = config.parse({"rl": {"lr": 0.5}, "workdir": "here"})
    older = json.loads(json.dumps(dataclasses.asdict(cfg) | {"workdir": "there"}))
    del older["rl"]["drpo"]["quantile"], older["ecg"]
    older["rl"]["drpo"]["num_domains"] = 10  # of before "endoscopy"
    assert config.parse(older).rl.drpo == cfg.rl.drpo
    assert config.differences(cfg, older) == []
    older["rl"]["lr"], older["data"]["gone"] = 0.4, 1
    assert config.differences(cfg, older) == ["data.gone", "rl.lr"]


def test_overrides_keep_types():
    changed = config.parse(
        config.override(
            config.default(),
            [
                "--config.rl.lr=1e-5",
                "--config.stages=sft",
                "--config.data.real=false",
                "--config.rl.drpo.k_max=3",
            ],
        )
    )
    assert (changed.rl.lr, changed.stages, changed.data.real, changed.rl.drpo.k_max) == (
        1e-5,
        ("sft",),
        False,
        3,
    )


def test_a_reward_preset_brings_its_own_weights():
    released = PRESETS["released"]
    reward = config.parse(
        config.override(config.default(), ["--config.rl.reward.preset=released"])
    ).rl.reward
    assert {name: getattr(reward, name) for name in released} == released
    mine = config.parse(
        config.override(
            config.default(), ["--config.rl.reward.preset=released", "--config.rl.reward.iou=0.7"]
        )
    )
    assert mine.rl.reward == RewardConfig.of("released", iou=0.7)
    assert config.parse(dataclasses.asdict(mine)) == mine, "config.json of a run is read back"


def test_errors_name_fields_as_the_command_line_takes_them():
    """Every section.field in an error's text exists, and no field with a section is named without
    it.
    """
    sections, bare = set(), set()

    def walk(node, prefix):
        for name, value in node.items():
            if isinstance(value, ml_collections.ConfigDict):
                walk(value, f"{prefix}{name}.")
            else:
                sections.add(prefix + name)
                if "_" in name and prefix:
                    bare.add(name)

    walk(config.default(), "")
    walk(transfer.default(), "")
    names = {key.partition(".")[0] for key in sections if "." in key}
    wrong = []
    for path in sorted((REPOSITORY / "qoq_jax").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and getattr(call.func, "id", "").endswith("Error")):
                continue
            hint = next((k.value for k in call.keywords if k.arg == "hint"), call.func)
            text = " ".join(
                c.value
                for c in ast.walk(hint)
                if isinstance(c, ast.Constant) and isinstance(c.value, str)
            )
            for word in re.findall(r"(?<![/\w])(?:--config\.)?[a-z_]+(?:\.[a-z_]+)*", text):
                word = word.removeprefix("--config.")
                if (
                    "." in word
                    and word.partition(".")[0] in names
                    and word not in sections | {f"{n}.py" for n in names}
                ):
                    wrong.append(f"{path.name}:{call.lineno}: {word}")
                if word in bare and (
                    path.parent.name == "train"
                    or path.name in ("sample.py", "pipeline.py", "packing.py")
                ):
                    wrong.append(f"{path.name}:{call.lineno}: {word} without its section")
    assert not wrong


def test_help_shows_examples(capsys):
    for arguments in (["--help"], ["train", "--help"], ["data", "build", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        assert "qoq train --config=configs/quickstart.py" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "nowhere", "--bogus"])
    assert stop.value.code == 2
