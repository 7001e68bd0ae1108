"""Configuration: an ml_collections.ConfigDict on the outside, frozen dataclasses on the inside.

A config file (configs/*.py) defines `get_config(arg)` and returns a ConfigDict that starts from
`default()`. The command line overrides single fields (`--config.rl.lr=1e-4`). `parse` turns the
ConfigDict into a frozen `Config`: an unknown key or a wrong type stops there, with a suggestion.
Code below the command line only ever sees the dataclasses.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import json
import math
import os
import typing

import ml_collections

from qoq_jax.base.errors import ConfigError
from qoq_jax.data.answer_format import COORDINATES, PIXELS
from qoq_jax.data.rows import DOMAINS
from qoq_jax.models.lora import LoraConfig
from qoq_jax.rewards.score import PRESETS, RewardConfig
from qoq_jax.rl.algorithms import ALGORITHMS
from qoq_jax.rl.drpo import DRPOConfig


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which model, and how it computes."""

    # random weights: a name of models/sizes.py, nano, 3b, 7b, 32b, 72b, qwen3-2b, -4b, -8b,
    # -32b; published architecture, tokenizer and weights: a Hugging Face directory, or a hub id
    # like Qwen/Qwen2.5-VL-3B-Instruct
    variant: str = "nano"
    # "nano", or a Hugging Face directory that holds tokenizer.json; "" = the model's own
    tokenizer: str = ""
    # tokens an ECG: 1 (pooled), 50 (a time step each), 400 (a lead and time step each); 0 = no ECG
    # encoder
    ecg_tokens: int = 1
    compute_dtype: str = "float32"  # float32 or bfloat16; master weights are always float32
    remat: str = "none"  # rematerialisation of decoder and vision blocks: none, dots, full
    # ECG-JEPA safetensors file that the ECG encoder starts from; "" = random weights
    ecg_weights: str = ""
    # how boxes are written: pixels (of the resized picture) or relative_1000 (0 to 1000 of its
    # sides); "" = as the model family does: Qwen2.5-VL pixels, published Qwen3-VL relative_1000
    box_coordinates: str = ""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Device mesh. The product must be the device count; -1 takes what is left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where rows come from and how they become fixed shapes."""

    root: str = "data_cache"  # folder for generated and fetched data sets
    mini_rows: int = 6000  # training rows of climb-mini; 0 = none
    mini_seed: int = 0
    # climb (CT over half of the rows), climb_without_rspect (chest X-rays) or balanced
    mini_imbalance: str = "climb"
    real: bool = True  # add the real samples of climb/samples/fetch.py when they can be fetched
    # further folders with train/validation/test.jsonl in the CLIMB-QA schema
    extra: tuple[str, ...] = ()
    real_repeat: int = 4  # times that a real training row counts, since there are few of them
    # a domain of n rows is drawn with weight n^power: 1 = as they come, 0 = all domains alike
    mixing_power: float = 1.0
    cache: bool = False  # keep processed samples in memory: for some thousand small samples
    on_error: str = "raise"  # a bad sample: "raise", or "skip" (counted, listed in the report)
    # with skip: stop when more than this share of the rows read was bad
    max_bad_fraction: float = 0.01
    min_pixels: int = 28 * 28
    max_pixels: int = 112 * 112  # largest image after resizing
    frame_max_pixels: int = 112 * 112  # largest frame of a volume or video after resizing
    system: str = ""  # system turn of the chat; "" = none
    max_prompt_tokens: int = 80
    max_response_tokens: int = 56  # longest gold answer, and longest answer in evaluation
    max_patches: int = 128  # patches of the largest sample
    mean_patches: int = 104  # vision budget of a training batch: patches a sample
    mean_ecgs: float = 0.4  # ECG budget of a training batch: ECGs a sample
    media_rows: int = 1  # media rows a batch; a multiple of the mesh's data x fsdp


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, as in QoQ-Med (spec: lr 1e-6 there; the stages set their own)."""

    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    clip_norm: float = 1.0
    # weights that stay as they are, by the start of their path: "vision", "vision/patch_embed", ...
    frozen: tuple[str, ...] = ()
    max_skipped: int = 10  # stop after so many non-finite updates in a row
    offload: bool = False  # keep the moments in host memory between updates


@dataclasses.dataclass(frozen=True)
class SftConfig:
    """Supervised warm start."""

    steps: int = 200
    rows: int = 16  # text rows a batch; several samples are packed into one
    tokens: int = 352  # length of a text row
    samples: int = 48  # samples a batch that the media budget is made for
    limit: int = 0  # use only so many training rows (0 = all)
    # False: teach format, boxes and findings, but hide the diagnosis (train/setup.py
    # hide_diagnosis)
    diagnoses: bool = True
    # teach boxes whose edges lie up to this share of a side inside the gold box (train/setup.py
    # shrink_boxes)
    box_shrink: float = 0.0
    lr: float = 1e-3
    warmup: int = 20
    schedule: str = "cosine"  # constant, cosine or linear, after the warm-up
    accumulate: int = 1  # micro-batches a step; divides media_rows
    save_every: int = 100


@dataclasses.dataclass(frozen=True)
class CriticConfig:
    """Value head of PPO: an MLP on the decoder's last hidden state. Its gradient stops there."""

    lr: float = 1e-3
    clip: float = 0.5  # largest move of a value in one update that the loss rewards
    gae_lambda: float = 1.0


@dataclasses.dataclass(frozen=True)
class RlConfig:
    """Reinforcement learning on sampled answers."""

    # sft (gold answers to the same questions, no RL), or a row of rl/algorithms.py
    algorithm: str = "drpo"
    steps: int = 300
    questions: int = 32  # prompts a rollout batch
    rollouts: int = 6  # answers a prompt
    # longest answer in training; what is not finished by then has no format reward
    response_tokens: int = 40
    # most answers that are sampled at the same time (their cache takes memory); 0 = all
    rollout_rows: int = 0
    minibatches: int = 1  # updates a pass over a rollout batch; divides media_rows
    epochs: int = 1  # passes over a rollout batch; from the second on its media rows are shuffled
    accumulate: int = 1  # micro-batches an update; minibatches x accumulate divides media_rows
    lr: float = 3e-4
    warmup: int = 10
    schedule: str = "constant"
    temperature: float = 1.0
    top_p: float = 1.0
    gamma: float = 1.0  # discount a token of ppo and reinforce_pp
    kl_coefficient: float = 1e-4
    kl_estimator: str = "low_var"  # kl, abs, mse or low_var
    kl_in: str = "loss"  # loss or reward
    # above 0: the coefficient adapts until an answer has this KL to the reference
    kl_target: float = 0.0
    kl_horizon: int = 10000  # answers in which an adaptive coefficient changes by at most 20 %
    clip_low: float = 0.0  # clip range of the ratio and dual clip; 0 = the algorithm's own
    clip_high: float = 0.0
    clip_dual: float = 0.0
    # denominator of the ratio: the sampler's own, or "trainer" (recomputed for several updates)
    old_logprobs: str = "sampler"
    # above 0: weigh tokens by min(trainer / sampler probability, cap); needs old_logprobs = trainer
    importance_cap: float = 0.0
    # dapo: further rollout batches drawn at most, to replace questions whose answers all earned the
    # same
    max_refills: int = 3
    offload_reference: bool = False  # keep the reference in host memory while it is not needed
    # processes that compute rewards; 0 = in the trainer's own process, without a deadline
    reward_workers: int = 0
    # seconds that a worker has for one answer; past it the answer earns 0 and is counted
    reward_deadline: float = 2.0
    save_every: int = 50
    critic: CriticConfig = CriticConfig()
    reward: RewardConfig = RewardConfig()
    drpo: DRPOConfig = DRPOConfig(num_domains=len(DOMAINS))


@dataclasses.dataclass(frozen=True)
class AlignConfig:
    """Stage 1 of QoQ-Med, modality alignment: section rl, on some domains, with more frozen."""

    steps: int = 100
    lr: float = 3e-4
    domains: tuple[str, ...] = ("ecg",)
    frozen: tuple[str, ...] = ("vision",)  # beside optimizer.frozen


@dataclasses.dataclass(frozen=True)
class EcgPretrainConfig:
    """ECG-JEPA pretraining of the variant's ECG encoder (stage "ecg", which is a run of its own)."""

    # climb-mini ECGs to generate, a fifth of the patients held out for the linear probe; 0 = none
    rows: int = 3000
    # another one than data.mini_seed, so that no patient of climb-mini is among them
    data_seed: int = 1000
    # further ECGs: trees of WFDB, NPZ or DICOM files (unlabelled), or folders with train.jsonl
    folders: tuple[str, ...] = ()
    steps: int = 400
    batch: int = 32  # a multiple of the mesh's data x fsdp
    mask: str = "random"  # hidden time steps: "random", or "block" (multi-block)
    # share of the steps that is hidden (random), or that each block hides: drawn from [low, high)
    mask_low: float = 0.6
    mask_high: float = 0.7
    mask_blocks: int = 4  # blocks of mask=block
    lr: float = 2e-3
    warmup: int = 30
    schedule: str = "cosine"
    # of the moving average that gives the targets, rising linearly to 1; the paper has 0.996 for
    # long runs
    momentum: float = 0.99
    save_every: int = 100


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Evaluation of a checkpoint by greedy decoding."""

    split: str = "test"
    rows: int = 32  # rows a batch
    limit_per_domain: int = 0  # 0 = all
    gallery: int = 24  # cases drawn in the report
    every: int = 0  # steps between validations while training; 0 = none
    validation_rows: int = 8  # validation rows a domain
    best: bool = False  # go on with the weights of the best validation, not with the last ones
    patience: int = 0  # stop a stage after so many validations without a new best; 0 = never


@dataclasses.dataclass(frozen=True)
class LogConfig:
    every: int = 5  # steps between log lines and metric rows
    tensorboard: bool = True
    wandb: bool = False  # needs the extra `wandb`


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0
    workdir: str = "runs/default"
    # folder of compiled programs, for runs that share them; "" = inside the workdir
    compile_cache: str = ""
    # workdir of a finished run whose weights this one starts from; "" = those of model.variant
    start: str = ""
    stages: tuple[str, ...] = ("sft", "rl")  # of sft, align, rl, in this order
    model: ModelConfig = ModelConfig()
    mesh: MeshConfig = MeshConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    lora: LoraConfig = LoraConfig()
    sft: SftConfig = SftConfig()
    align: AlignConfig = AlignConfig()
    rl: RlConfig = RlConfig()
    ecg: EcgPretrainConfig = EcgPretrainConfig()
    eval: EvalConfig = EvalConfig()
    log: LogConfig = LogConfig()


STAGES = ("sft", "align", "rl")
_CHOICES = {
    "stages": (*STAGES, "ecg"),
    "lora.stages": STAGES,
    "align.domains": DOMAINS,
    "model.ecg_tokens": (0, 1, 50, 400),
    "model.compute_dtype": ("float32", "bfloat16"),
    "model.remat": ("none", "dots", "full"),
    "model.box_coordinates": ("", *COORDINATES),
    "data.mini_imbalance": ("climb", "climb_without_rspect", "balanced"),
    "data.on_error": ("raise", "skip"),
    "sft.schedule": ("constant", "cosine", "linear"),
    "rl.schedule": ("constant", "cosine", "linear"),
    "rl.algorithm": ("sft", *ALGORITHMS),
    "rl.kl_estimator": ("kl", "abs", "mse", "low_var"),
    "rl.kl_in": ("loss", "reward"),
    "ecg.mask": ("random", "block"),
    "ecg.schedule": ("constant", "cosine", "linear"),
    "rl.old_logprobs": ("sampler", "trainer"),
    "eval.split": ("validation", "test"),
}
_POSITIVE = (
    "sft.steps",
    "sft.rows",
    "sft.tokens",
    "sft.samples",
    "sft.accumulate",
    "sft.save_every",
    "rl.steps",
    "rl.questions",
    "rl.rollouts",
    "rl.response_tokens",
    "rl.minibatches",
    "rl.accumulate",
    "rl.epochs",
    "rl.kl_horizon",
    "rl.reward_deadline",
    "align.steps",
    "eval.validation_rows",
    "rl.temperature",
    "rl.save_every",
    "eval.rows",
    "log.every",
    "ecg.steps",
    "ecg.batch",
    "ecg.mask_blocks",
    "ecg.save_every",
    "data.media_rows",
    "data.max_prompt_tokens",
    "data.max_response_tokens",
    "optimizer.max_skipped",
    "optimizer.clip_norm",
    "rl.top_p",
    "rl.drpo.eps",
)
_NOT_NEGATIVE = (
    "sft.lr",
    "rl.lr",
    "align.lr",
    "ecg.lr",
    "rl.critic.lr",
    "rl.critic.clip",
    "sft.warmup",
    "rl.warmup",
    "rl.rollout_rows",
    "ecg.warmup",
    "eval.every",
    "eval.patience",
    "optimizer.weight_decay",
    "rl.gamma",
    "rl.critic.gae_lambda",
    "data.mixing_power",
)
_AT_MOST_ONE = ("rl.top_p", "rl.gamma", "rl.critic.gae_lambda")


def default() -> ml_collections.ConfigDict:
    """The defaults as a ConfigDict; config files start from it and change what differs."""
    return to_config_dict(Config())


def to_config_dict(config) -> ml_collections.ConfigDict:
    """A (nested) config dataclass as a ConfigDict."""
    return ml_collections.ConfigDict(dataclasses.asdict(config), convert_dict=True)


def parse(config: ml_collections.ConfigDict) -> Config:
    """ConfigDict -> frozen Config.

    Raises:
      ConfigError: an unknown key, a wrong type, or a value that makes no sense; the message names
        the field.
    """
    parsed = _build(
        Config,
        config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config),
        "",
    )
    _check(parsed)
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


def load_module(file: str):
    """A config file as a module.

    Raises:
      ConfigError: no such file.
    """
    if not os.path.isfile(file):
        near = difflib.get_close_matches(
            os.path.basename(file), _config_files(os.path.dirname(file) or "."), n=1
        )
        raise ConfigError(
            f"config file {file!r} does not exist",
            hint=f"did you mean {near[0]!r}?" if near else "give the path of a file in configs/",
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
    config: ml_collections.ConfigDict, assignments: typing.Sequence[str]
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
                    hint=_suggest(part, known),
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


def differences(config: Config, other: dict) -> list[str]:
    """Fields in which a config.json is another config, but for those that change no result.

    A field that it does not name is one that came later, with its default.
    """

    def compare(mine: dict, theirs: dict, default: dict, prefix: str):
        for key in mine.keys() | theirs.keys():
            a, b, usual = mine.get(key), theirs.get(key, default.get(key)), default.get(key)
            if prefix + key in ("workdir", "compile_cache", "log"):
                continue
            # Runs from before this field wrote pixels, whatever the family.
            if prefix + key == "model.box_coordinates" and key not in theirs and a == PIXELS:
                continue
            if isinstance(a, dict) and isinstance(b, dict):
                yield from compare(
                    a, b, usual if isinstance(usual, dict) else {}, f"{prefix}{key}."
                )
            elif a != b:
                yield prefix + key

    as_json = lambda c: json.loads(json.dumps(dataclasses.asdict(c)))  # tuples become lists
    return sorted(compare(as_json(config), other, as_json(Config()), ""))


def _read_value(text: str, like, key: str):
    """Text -> value of the type of `like`."""
    try:
        if isinstance(like, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(like, int):
            return int(text)
        if isinstance(like, float):
            return float(text)
    except (KeyError, ValueError):
        raise ConfigError(
            f"{key} = {text!r} is not a {type(like).__name__}", hint=f"now {like!r}"
        ) from None
    if isinstance(like, (tuple, list)):
        return tuple(
            part for part in text.strip("()[]").replace("'", "").replace('"', "").split(",") if part
        )
    return text


def _build(cls, values: dict, prefix: str):
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise ConfigError(
                f"unknown config key {prefix + str(key)!r}", hint=_suggest(str(key), list(hints))
            )
    kwargs = {}
    for key, value in values.items():
        kind, where = hints[key], prefix + key
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise ConfigError(f"{where} must be a section, got {value!r}")
            if kind is RewardConfig:
                value = _reward_preset(value)
            kwargs[key] = _build(kind, value, where + ".")
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


def _typed(value, kind, where: str):
    """Checks a leaf's type; ints pass as floats, lists as tuples."""
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise ConfigError(f"{where} = {value!r} is none of {', '.join(typing.get_args(kind))}")
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, (tuple, list)):
            raise ConfigError(f"{where} = {value!r} is not a tuple")
        item = typing.get_args(kind)[0]
        return tuple(_typed(v, item, where) for v in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"{where} is not a number")
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(
            f"{where} = {value!r} is a {type(value).__name__}", hint=f"give a {kind.__name__}"
        )
    return value


def _check(config: Config) -> None:
    def get(path):
        node = config
        for part in path.split("."):
            node = getattr(node, part)
        return node

    for path, allowed in _CHOICES.items():
        value = get(path)
        for item in value if isinstance(value, tuple) else (value,):
            if item not in allowed:
                near = _suggest(str(item), [str(a) for a in allowed])
                raise ConfigError(
                    f"{path} = {item!r} is none of {', '.join(map(str, allowed))}", hint=near
                )
    for path in _POSITIVE:
        if get(path) <= 0:
            raise ConfigError(f"{path} = {get(path)} must be positive")
    for path in _NOT_NEGATIVE:
        if get(path) < 0:
            raise ConfigError(f"{path} = {get(path)} must not be negative")
    for path in _AT_MOST_ONE:
        if get(path) > 1:
            raise ConfigError(f"{path} = {get(path)} must be at most 1")
    if not 0 <= config.sft.box_shrink < 0.5:
        raise ConfigError(f"sft.box_shrink = {config.sft.box_shrink} must be in [0, 0.5)")
    _check_rl(config.rl)
    if config.model.ecg_weights and not config.model.ecg_tokens:
        raise ConfigError(
            "model.ecg_weights for a model without an ECG encoder",
            hint="set model.ecg_tokens to 1, 50 or 400",
        )
    if "ecg" in config.stages and config.stages != ("ecg",):
        raise ConfigError(
            f"stages = {config.stages}: ECG pretraining is a run of its own",
            hint="run it with stages = ('ecg',) and give its file to the other run as "
            "model.ecg_weights",
        )
    if config.stages != ("ecg",) and list(config.stages) != [
        name for name in STAGES if name in config.stages
    ]:
        raise ConfigError(
            f"stages = {config.stages}", hint="name each stage once, in the order sft, align, rl"
        )
    if (config.eval.best or config.eval.patience) and not config.eval.every:
        raise ConfigError("eval.best and eval.patience need validations", hint="set eval.every")
    blocks = config.ecg.mask_blocks if config.ecg.mask == "block" else 1
    if (
        not 0.02 <= config.ecg.mask_low <= config.ecg.mask_high
        or blocks * config.ecg.mask_high >= 1
    ):
        raise ConfigError(
            f"ecg.mask_low = {config.ecg.mask_low}, mask_high = {config.ecg.mask_high} with "
            f"{blocks} block(s) hides "
            "nothing or everything",
            hint="0.6 and 0.7 for random, 0.175 and 0.225 for block",
        )
    if not 0 <= config.ecg.momentum <= 1:
        raise ConfigError(f"ecg.momentum = {config.ecg.momentum} must be in [0, 1]")
    if config.rl.rollouts < 2:
        raise ConfigError("rl.rollouts = 1 leaves nothing to compare", hint="use at least 2")
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


def _check_rl(rl: RlConfig) -> None:
    if rl.importance_cap and rl.old_logprobs != "trainer":
        raise ConfigError(
            "rl.importance_cap corrects the trainer's log-probs", hint="set rl.old_logprobs=trainer"
        )
    if rl.algorithm == "gspo" and rl.clip_dual:
        raise ConfigError(
            "rl.clip_dual bounds the loss of a token, and gspo has one ratio an answer",
            hint="set it to 0",
        )
    if rl.algorithm == "drpo" and rl.kl_in == "reward":
        raise ConfigError(
            "drpo divides by mean rewards: KL inside them makes those of wrong answers "
            "negative, and they would outweigh "
            "all others",
            hint="set rl.kl_in=loss",
        )
    if rl.drpo.num_domains != len(DOMAINS):
        raise ConfigError(
            f"rl.drpo.num_domains = {rl.drpo.num_domains}, but rows name {len(DOMAINS)} domains",
            hint=f"set it to {len(DOMAINS)}",
        )
    if rl.importance_cap and rl.algorithm == "gspo":
        raise ConfigError(
            "rl.importance_cap weighs tokens, and gspo has one ratio an answer", hint="set it to 0"
        )
    if not (0 <= rl.clip_low < 1 and rl.clip_high >= 0 and (rl.clip_dual == 0 or rl.clip_dual > 1)):
        raise ConfigError(
            f"rl.clip_low, clip_high, clip_dual = {rl.clip_low}, {rl.clip_high}, {rl.clip_dual}",
            hint="use clip_low in [0, 1), clip_high >= 0 and clip_dual 0 or above 1 (inf = none)",
        )
    if (
        min(rl.kl_coefficient, rl.kl_target, rl.max_refills, rl.reward_workers, rl.importance_cap)
        < 0
    ):
        raise ConfigError(
            "rl.kl_coefficient, kl_target, max_refills, reward_workers and importance_cap must "
            "not be negative"
        )
    if rl.kl_target and not rl.kl_coefficient:
        raise ConfigError(
            "an adaptive KL coefficient is scaled from its start, and 0 stays 0",
            hint="set rl.kl_coefficient above 0",
        )


def _suggest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(sorted(known))


def _config_files(folder: str) -> list[str]:
    return [f for f in os.listdir(folder) if f.endswith(".py")] if os.path.isdir(folder) else []
