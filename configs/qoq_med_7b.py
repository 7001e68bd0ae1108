"""QoQ-Med-7B with the published hyper-parameters: stage 1 (`align`: reinforcement learning on ECGs,
the vision tower frozen), then stage 2 (`rl`: DRPO on all domains), from Qwen2.5-VL-7B-Instruct.

    qoq plan --config=configs/qoq_med_7b.py:v5p-4x4x4 --topology v5p:4x4x4
    qoq train --config=configs/qoq_med_7b.py:v5p-4x4x4 --config.data.extra=PATH_OF_ROWS
                                        236 hours on 64 chips at 40 % of their peak, by `qoq plan`;
                                        not yet run on any accelerator, and no score is known
    qoq train --config=configs/qoq_med_7b.py:h100-8x8 --config.data.extra=PATH_OF_ROWS
    qoq train --config=configs/qoq_med_7b.py:v5e-16x16 --config.data.extra=PATH_OF_ROWS
    qoq train --config=configs/qoq_med_7b.py:v5e-4x4 --config.data.extra=PATH_OF_ROWS

The argument is the topology. PATH_OF_ROWS is a folder with train.jsonl, validation.jsonl and
test.jsonl (docs/data.md). `--config.model.ecg_weights=FILE` starts from a pretrained ECG encoder
(configs/ecg_jepa.py); without it the encoder is random.

Hyper-parameters: arXiv 2506.00711v2, section 4 and appendix, and the released code
(github.com/DDVD233/QoQ_Med). Where neither says one, the comment says "ours".
"""

from qoq_jax import config as qoq_config
from qoq_jax.errors import ConfigError

# Prompts of an epoch: 78.9 thousand ECGs in stage 1, 2.61 million questions in stage 2.
ALIGN_ROWS, RL_ROWS = 78_900, 2_610_000
# topology -> what of the layout is its own; `published` has the rest. rows: responses that are
# sampled at the same time, 0 = all.
TOPOLOGIES = {
    "v5p-4x4x4": dict(fsdp=64, rollout_tensor=4, accumulate=1, rows=0),
    "v5e-16x16": dict(fsdp=128, tensor=2, rollout_tensor=4, accumulate=1, rows=0),
    "h100-8x8": dict(data=8, fsdp=8, rollout_tensor=4, accumulate=1, rows=0, attention="flash"),
    # Ours: 64 prompts and one update a step, for which the towers, the scoring and the cache of 512
    # leave no room.
    "v5e-4x4": dict(
        fsdp=16,
        rollout_tensor=4,
        accumulate=4,
        rows=160,
        questions=64,
        minibatches=1,
        remat="offload",
        offload_reference=True,
    ),
}


def published(variant: str, layout: dict):
    """The published training of a size on a layout (a value of TOPOLOGIES)."""
    config = qoq_config.default()
    config.stages = ("align", "rl")
    config.model.variant = variant
    config.model.ecg_tokens = 1  # the mean of an ECG's tokens, as in the released code
    config.model.compute_dtype = "bfloat16"  # master weights are float32
    config.model.remat = layout.get("remat", "full")
    config.model.attention = layout.get("attention", "auto")
    config.mesh.data, config.mesh.fsdp = layout.get("data", 1), layout["fsdp"]
    config.mesh.tensor = layout.get("tensor", 1)
    config.mesh.rollout_tensor = layout["rollout_tensor"]

    # The user's rows alone: --config.data.extra=PATH_OF_ROWS
    config.data.mini_rows, config.data.real = 0, False
    config.data.min_pixels, config.data.max_pixels = 65_536, 524_288
    # Ours: the 4 frames of a volume, two by two, take as many patches as the largest image.
    config.data.frame_max_pixels = 262_144
    config.data.max_patches = config.data.mean_patches = 2_688
    config.data.mean_ecgs = 1.0
    config.data.max_prompt_tokens = config.data.max_response_tokens = 4_000

    config.optimizer.b1, config.optimizer.b2 = 0.9, 0.999
    config.optimizer.weight_decay, config.optimizer.clip_norm = 1e-2, 1.0
    config.optimizer.offload = layout.get("offload", False)

    config.rl.algorithm = "drpo"
    config.rl.questions = layout.get("questions", 512)
    config.rl.rollouts, config.rl.response_tokens = 5, 4_000
    config.rl.minibatches = layout.get("minibatches", 4)  # of 128 prompts
    config.rl.accumulate, config.rl.rollout_rows = layout["accumulate"], layout["rows"]
    config.rl.lr, config.rl.warmup, config.rl.schedule = 1e-6, 0, "constant"
    config.rl.temperature, config.rl.top_p = 1.0, 0.99
    config.rl.kl_coefficient, config.rl.kl_estimator, config.rl.kl_in = 1e-4, "low_var", "loss"
    config.rl.clip_low, config.rl.clip_high, config.rl.clip_dual = 0.2, 0.3, 3.0
    # Ours: as the released code, the ratio is to the trainer's own log-probabilities.
    config.rl.old_logprobs = "trainer"
    config.rl.offload_reference = layout.get("offload_reference", False)
    config.rl.steps = RL_ROWS // config.rl.questions  # one epoch
    config.align.domains, config.align.frozen = ("ecg",), ("vision",)
    config.align.lr = 1e-6
    config.align.steps = ALIGN_ROWS // config.rl.questions

    # Ours: one prompt a media row, so that any number of devices shares them.
    config.data.media_rows = config.eval.rows = config.rl.questions
    config.sft.rows = config.sft.samples = config.rl.questions
    config.rl.save_every, config.log.every = 20, 1
    config.rl.reward_workers = 8
    config.eval.limit_per_domain = 500
    return config


def get_config(arg: str = "v5p-4x4x4"):
    if arg not in TOPOLOGIES:
        raise ConfigError(f"unknown argument {arg!r}", hint=f"use one of {', '.join(TOPOLOGIES)}")
    config = published("Qwen/Qwen2.5-VL-7B-Instruct", TOPOLOGIES[arg])
    config.workdir = f"runs/qoq_med_7b-{arg}"
    return config
