"""The quickstart: a small model, climb-mini and the real samples, SFT warm start, DRPO, report.

qoq train --config=configs/quickstart.py            DRPO; 10 to 14 minutes on 2 cores with
                                                    install, data and report. Held-out
                                                    climb-mini, three seeds: macro-F1 0.66 to
                                                    0.78, IoU 0.46 to 0.53
qoq train --config=configs/quickstart.py:grpo       the same with GRPO: as long; its scores have
                                                    not been measured
qoq train --config=configs/quickstart.py:smoke      2 minutes, to see that everything runs
"""

from qoq_jax import config as qoq_config
from qoq_jax.errors import ConfigError


def get_config(arg: str = "drpo"):
    config = qoq_config.default()
    config.workdir = f"runs/quickstart-{arg}" if arg != "drpo" else "runs/quickstart"
    config.data.mini_rows = 9000
    # CT is over half of the rows and the rarest domain under 1 %. One rule for all: a domain of n
    # rows is sampled with weight n^0.25
    config.data.mixing_power = 0.25
    config.data.frame_max_pixels = 84 * 84  # 2 x 36 patches for the 4 frames of a volume
    config.data.max_patches, config.data.mean_patches, config.data.mean_ecgs = 72, 64, 0.25
    config.data.max_prompt_tokens = 76
    config.data.cache = True
    # From a pretrained encoder ECGs are learned with some hundred questions; from random weights
    # not at all in this time (docs/evidence_quickstart.md).
    config.model.ecg_weights = "climb-mini"
    config.optimizer.b2 = 0.98
    # From scratch, the patch projection gets gradients far above all others and shakes what the
    # tower has learned (arXiv 2104.02057, section 4.2); its cosine basis needs no training.
    config.optimizer.frozen = ("vision/patch_embed",)
    # The warm start knows the answer format, where a finding is and what it looks like, but has
    # read random names for most findings; names and the extent of a finding are left to RL.
    config.sft.label_noise, config.sft.box_shrink = 0.7, 0.3
    # small batches and many steps: for the same time more is learned
    config.sft.steps, config.sft.warmup = 600, 40
    config.sft.rows, config.sft.tokens, config.sft.samples = 16, 176, 24
    config.sft.lr = 1e-3
    config.rl.questions, config.rl.rollouts = 24, 6
    config.rl.steps = 250
    config.rl.response_tokens = 36
    # at 2e-4 and more the first 60 steps lose much of what a good warm start knows
    config.rl.lr, config.rl.schedule = 1e-4, "cosine"
    # A stray token spoils a response; top-p leaves out the unlikely ones and keeps all labels.
    config.rl.temperature, config.rl.top_p = 0.9, 0.95
    # Two labels that the model cannot tell apart earn the same: between them the policy drifts at
    # random until only one is left. The KL term holds it, and leaves room for what pays.
    config.rl.kl_coefficient = 0.3
    # Responses to one question differ far more in accuracy than in IoU; at the paper's weight of
    # 0.2 boxes hardly improve.
    config.rl.reward.iou = 0.4
    # A batch has two questions per domain, too few to cluster: temperatures are taken over the
    # last 256 of each as well.
    config.rl.drpo.history_size = 256
    # our own weights and damping (docs/rl.md): the paper's damping weakens the good responses of
    # rare domains most
    config.rl.drpo.variant = "bounded"
    config.rl.algorithm = "grpo" if arg == "grpo" else "drpo"
    if arg == "smoke":
        config.data.mini_rows = 400
        config.sft.steps = 20
        config.rl.steps = 5
    elif arg not in ("drpo", "grpo"):
        raise ConfigError(f"unknown argument {arg!r}", hint="use drpo, grpo or smoke")
    return config
