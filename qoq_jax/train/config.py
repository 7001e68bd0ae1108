"""Configuration: an ml_collections.ConfigDict on the outside, frozen dataclasses on the inside.

A config file (configs/*.py) defines `get_config(arg)` and returns a ConfigDict that starts from
`default()`. The command line overrides single fields (`--config.rl.lr=1e-4`). `parse` turns the
ConfigDict into a frozen `Config`: an unknown key or a wrong type stops there, with a suggestion.
Code below the command line only ever sees the dataclasses.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import typing
from collections.abc import Iterator, Sequence
from dataclasses import field
from types import ModuleType
from typing import Any, Protocol, TypeVar

import ml_collections

from qoq_jax.base.errors import ConfigError, did_you_mean
from qoq_jax.base.fields import check_bounds, check_choice, plain
from qoq_jax.data.answer_format import PIXELS
from qoq_jax.data.config import DataConfig
from qoq_jax.evaluation.config import EvalConfig
from qoq_jax.models.config import ModelConfig
from qoq_jax.models.lora import LoraConfig
from qoq_jax.parallel.mesh import MeshConfig
from qoq_jax.rewards.score import PRESETS, RewardConfig
from qoq_jax.rl import algorithms
from qoq_jax.rl.config import RlConfig, with_all_domains
from qoq_jax.rl.drpo import DRPOConfig
from qoq_jax.sampling.config import RolloutConfig
from qoq_jax.train import stages
from qoq_jax.train.sections import (
    AlignConfig,
    CheckpointConfig,
    EcgPretrainConfig,
    FaultsConfig,
    LogConfig,
    OptimizerConfig,
    ProfileConfig,
    SftConfig,
)

# A run may go on with other values of these.
_CHANGE_NO_RESULT = ("workdir", "compile_cache", "checkpoint", "faults", "profile", "log")


_T = TypeVar("_T")


class RunSettings(Protocol):
    """What the config of any run has: where it writes, and how it is guarded, profiled, logged."""

    workdir: str
    compile_cache: str
    checkpoint: CheckpointConfig
    faults: FaultsConfig
    profile: ProfileConfig
    log: LogConfig


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0
    workdir: str = "runs/default"
    # folder of compiled programs, for runs that share them; "" = inside the workdir
    compile_cache: str = ""
    # workdir of a finished run whose weights this one starts from; "" = those of model.variant
    start: str = ""
    stages: tuple[str, ...] = ("sft", "rl")  # of sft, align, rl, in this order
    model: ModelConfig = field(default_factory=ModelConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    rl: RlConfig = field(default_factory=RlConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    ecg: EcgPretrainConfig = field(default_factory=EcgPretrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    log: LogConfig = field(default_factory=LogConfig)


def default() -> ml_collections.ConfigDict:
    """The defaults as a ConfigDict; config files start from it and change what differs."""
    return to_config_dict(Config())


def to_config_dict(config: Any) -> ml_collections.ConfigDict:
    """A (nested) config dataclass as a ConfigDict."""
    return ml_collections.ConfigDict(dataclasses.asdict(config), convert_dict=True)


def parse(config: ml_collections.ConfigDict) -> Config:
    """ConfigDict -> frozen Config.

    Raises:
      ConfigError: an unknown key, a wrong type, or a value that makes no sense; the message names
        the field.
    """
    parsed = parse_as(Config, config)
    _check(parsed)
    return parsed


def parse_as(kind: type[_T], config: ml_collections.ConfigDict | dict) -> _T:
    """ConfigDict -> frozen dataclass of a kind, by the rules of its sections; raises as `parse`."""
    values = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    parsed = _build(kind, values, "")
    for entry in dataclasses.fields(parsed):
        section = getattr(parsed, entry.name)
        if hasattr(section, "check"):
            section.check()
    return parsed


def load(path: str) -> ml_collections.ConfigDict:
    """Runs `get_config(arg)` of a config file given as `path.py` or `path.py:arg`."""
    file, _, arg = path.partition(":")
    module = load_module(file)
    if not hasattr(module, "get_config"):
        raise ConfigError("defines no get_config(arg)", where=file)
    try:
        return module.get_config(arg) if arg else module.get_config()
    except ConfigError:
        raise
    except Exception as error:  # whatever a config file does wrong is a mistake in the config
        raise ConfigError(
            f"get_config failed ({type(error).__name__}: {error})",
            where=path,
            hint="correct the config file",
        ) from error


def kind_of(path: str) -> str:
    """KIND of a config file, which says whose configs it has: "" (of this module), or "transfer"
    (of transfer/config.py).
    """
    return getattr(load_module(path.partition(":")[0]), "KIND", "")


def load_module(file: str) -> ModuleType:
    """A config file as a module.

    Raises:
      ConfigError: no such file.
    """
    if not os.path.isfile(file):
        there = _config_files(os.path.dirname(file) or ".")
        raise ConfigError(
            f"config file {file!r} does not exist",
            hint=did_you_mean(os.path.basename(file), there, "give the path of a file in configs/"),
        )
    module_spec = importlib.util.spec_from_file_location("qoq_config", file)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"cannot be read ({type(error).__name__}: {error})",
            where=file,
            hint="correct the config file",
        ) from error
    return module


def override(
    config: ml_collections.ConfigDict, assignments: Sequence[str]
) -> ml_collections.ConfigDict:
    """Applies `--config.a.b=value` arguments, typed as the field they replace."""
    for text, after in zip(assignments, [*assignments[1:], "--"]):
        key, sep, value = text.removeprefix("--config.").partition("=")
        if not text.startswith("--config.") or not sep:
            split = not sep and not after.startswith("--")
            raise ConfigError(
                f"cannot read {text + ' ' + after if split else text!r}",
                hint=f"write {text}={after}" if split else "write --config.section.field=value",
            )
        node, parts = config, key.split(".")
        for depth, part in enumerate(parts):
            if not isinstance(node, ml_collections.ConfigDict) or part not in node:
                known = list(node) if isinstance(node, ml_collections.ConfigDict) else []
                raise ConfigError(
                    f"unknown config key {'.'.join(parts[: depth + 1])!r}",
                    hint=did_you_mean(part, known, cutoff=0.5),
                )
            if depth < len(parts) - 1:
                node = node[part]
        if isinstance(node[parts[-1]], ml_collections.ConfigDict):
            raise ConfigError(
                f"{key!r} is a section, not a field",
                hint="name a field: " + ", ".join(node[parts[-1]]),
            )
        node[parts[-1]] = _read_value(value, node[parts[-1]], key)
    return config


def differences(config: RunSettings, other: dict) -> list[str]:
    """Fields in which a config.json is another config, but for those that change no result.

    A field that it does not name is one that came later, with its default.
    """

    def compare(mine: dict, theirs: dict, default: dict, prefix: str) -> Iterator[str]:
        for key in mine.keys() | theirs.keys():
            a, b, usual = mine.get(key), theirs.get(key, default.get(key)), default.get(key)
            if prefix + key in _CHANGE_NO_RESULT:
                continue
            # Runs from before this field wrote pixels, whatever the family.
            if prefix + key == "model.box_coordinates" and key not in theirs and a == PIXELS:
                continue
            if prefix == "rl.drpo." and with_all_domains({key: b}) == {key: a}:
                continue
            if isinstance(a, dict) and isinstance(b, dict):
                yield from compare(
                    a, b, usual if isinstance(usual, dict) else {}, f"{prefix}{key}."
                )
            elif a != b:
                yield prefix + key

    return sorted(compare(as_json(config), other, as_json(type(config)()), ""))


def as_json(config: RunSettings) -> dict:
    """The config as config.json holds it: tuples are lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _read_value(text: str, like: Any, key: str) -> Any:
    """Text -> value of the type of `like`."""
    try:
        if isinstance(like, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(like, int):
            return int(text)
        if isinstance(like, float):
            return float(text)
        if isinstance(like, (tuple, list)):
            words = text.strip("()[]").replace("'", "").replace('"', "").split(",")
            of = type(like[0]) if like and isinstance(like[0], int | float) else str
            return tuple(of(word) for word in words if word)
    except (KeyError, ValueError):
        raise ConfigError(
            f"{key} = {text!r} is not a {type(like).__name__}", hint=f"now {like!r}"
        ) from None
    return text


def _build(cls: type, values: dict, prefix: str) -> Any:
    hints = typing.get_type_hints(cls, include_extras=True)
    for key in values:
        if key not in hints:
            raise ConfigError(
                f"unknown config key {prefix + str(key)!r}",
                hint=did_you_mean(key, hints, cutoff=0.5),
            )
    kwargs = {}
    for key, value in values.items():
        kind, where = hints[key], prefix + key
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise ConfigError(f"{where} must be a section, got {value!r}")
            complete = {RewardConfig: _reward_preset, DRPOConfig: with_all_domains}.get(kind, dict)
            kwargs[key] = _build(kind, complete(value), where + ".")
        else:
            kwargs[key] = _typed(value, kind, where)
    return cls(**kwargs)


def _reward_preset(values: dict) -> dict:
    """Section rl.reward with the preset's numbers in the place of those that are still the default
    preset's.
    """
    default, chosen = (
        PRESETS[RewardConfig.preset],
        PRESETS.get(values.get("preset", RewardConfig.preset), {}),
    )
    return values | {
        name: number
        for name, number in chosen.items()
        if values.get(name, default[name]) == default[name]
    }


def _typed(value: object, kind: Any, where: str) -> object:
    """Checks a leaf's type and its rules (base/fields.py); ints pass as floats, lists as tuples."""
    if typing.get_origin(kind) is typing.Literal:
        allowed = typing.get_args(kind)
        check_choice(where, _typed(value, type(allowed[0]), where), allowed)
        return value
    if typing.get_origin(kind) is tuple:
        if isinstance(value, str) or not isinstance(value, (tuple, list)):
            raise ConfigError(f"{where} = {value!r} is not a tuple")
        item = typing.get_args(kind)[0]
        return tuple(_typed(v, item, where) for v in value)
    wanted = plain(kind)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if wanted is float and isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"{where} is not a number")
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ConfigError(
            f"{where} = {value!r} is a {type(value).__name__}", hint=f"give a {wanted.__name__}"
        )
    check_bounds(where, value, kind)
    return value


def _check(config: Config) -> None:
    """The rules between the sections."""
    algorithms.check(config.rl)
    _check_rollout(config)
    _check_stages(config)
    _check_rows(config)


def _check_rollout(config: Config) -> None:
    rl, rollout = config.rl, config.rollout
    vllm = rollout.engine == "vllm"
    if vllm and rl.temperature != 1:
        raise ConfigError(
            f"rollout.engine=vllm with rl.temperature = {rl.temperature}",
            hint="set rl.temperature=1: vLLM returns log-probabilities before the temperature",
        )
    limit = config.faults.watchdog
    if vllm and limit and rollout.timeout >= limit:
        raise ConfigError(
            f"rollout.timeout = {rollout.timeout:g}: faults.watchdog = {limit:g} would end the run "
            "while it waits for an answer",
            hint="set rollout.timeout below faults.watchdog",
        )
    other = other_sampler(config)
    algorithm = algorithms.resolve(rl)
    by_sequence = algorithm is not None and algorithm.ratio == "sequence"
    if other and by_sequence and rl.old_logprobs == "sampler":
        raise ConfigError(
            f"{other} samples from another policy than the trainer's: the ratio per response of "
            f"{rl.algorithm} would not begin at 1, and its narrow range would clip it",
            hint="set rl.old_logprobs=trainer",
        )


def other_sampler(config: Config) -> str | None:
    """The setting with which responses are sampled from another policy than the trainer's; None
    where both are the same up to rounding.
    """
    rl = config.rl
    others = {
        "rollout.engine=vllm": config.rollout.engine == "vllm",
        "rl.rollout_weights=int8": rl.rollout_weights != "auto",
        "rl.kv_cache_dtype=int8": rl.kv_cache_dtype != "auto",
    }
    return next((name for name, is_set in others.items() if is_set), None)


def _check_stages(config: Config) -> None:
    for stage in config.stages:
        check_choice("stages", stage, stages.STAGES)
    for stage in config.lora.stages:
        check_choice("lora.stages", stage, stages.MODEL_STAGES)
    alone = stages.is_alone(config.stages)
    if not alone and any(stages.get(name).alone for name in config.stages):
        raise ConfigError(
            f"stages = {config.stages}: ECG pretraining is a run of its own",
            hint="run it with stages = ('ecg',) and give its file to the other run as "
            "model.ecg_weights",
        )
    if alone:
        config.mesh.check_no_text("ECG pretraining")
    in_order = [name for name in stages.MODEL_STAGES if name in config.stages]
    if not alone and list(config.stages) != in_order:
        raise ConfigError(
            f"stages = {config.stages}", hint="name each stage once, in the order sft, align, rl"
        )


def _check_rows(config: Config) -> None:
    """Batches are whole media rows, and so are their parts."""
    for rows, name in (
        (config.sft.rows, "sft.rows"),
        (config.rl.questions, "rl.questions"),
        (config.eval.rows, "eval.rows"),
    ):
        if rows % config.data.media_rows:
            raise ConfigError(
                f"{name} = {rows} is not divisible by data.media_rows = {config.data.media_rows}"
            )
    for parts, name in (
        (config.sft.accumulate, "sft.accumulate"),
        (config.rl.minibatches * config.rl.accumulate, "rl.minibatches * rl.accumulate"),
    ):
        if config.data.media_rows % parts:
            raise ConfigError(
                f"{name} = {parts} does not divide data.media_rows = {config.data.media_rows}",
                hint="micro-batches are whole media rows: raise data.media_rows",
            )


def _config_files(folder: str) -> list[str]:
    return [f for f in os.listdir(folder) if f.endswith(".py")] if os.path.isdir(folder) else []
