"""How much of a packed batch is padding, on the sizes of CLIMB's mix.

    python benchmarks/packing.py

Rows are drawn by the records of each data set (`--temperature 1`) or by a power of them, with the
native size of its pictures (published or typical, +- 15 % where a set has several) and 90 to 360
tokens of question and answer. Pictures become patches by the limits of configs/qoq_med_7b.py; the
packer is the one of training. Printed is what is left empty of the places for tokens, patches and
ECGs, by the shape of a batch.
"""

from __future__ import annotations

import argparse

import numpy as np

from qoq_jax.data.images import smart_resize
from qoq_jax.data.packing import Budget, GroupPacker

# data set: (records, height, width, pictures, frames of a volume or video, ECGs)
MIX = {
    "ptb-xl": (21_837, 0, 0, 0, 0, 1),
    "chapman-shaoxing": (40_258, 0, 0, 0, 0, 1),
    "georgia": (20_689, 0, 0, 0, 0, 1),
    "cpsc2018": (6_192, 0, 0, 0, 0, 1),
    "mimic-cxr": (356_225, 3056, 2544, 1, 0, 0),
    "chexpert": (212_498, 2320, 2828, 1, 0, 0),
    "vindr-cxr": (18_000, 2880, 2400, 1, 0, 0),
    "covid-19": (2_990, 1000, 1200, 1, 0, 0),
    "coronahack": (5_908, 970, 1320, 1, 0, 0),
    "vindr-mammo": (20_000, 3518, 2800, 1, 0, 0),
    "cbis-ddsm": (2_825, 5300, 3100, 1, 0, 0),
    "cmmd": (1_872, 2294, 1914, 2, 0, 0),
    "isic-2020": (33_126, 4000, 6000, 1, 0, 0),
    "ham10000": (10_015, 450, 600, 1, 0, 0),
    "pad-ufes-20": (2_298, 1200, 1200, 1, 0, 0),
    "messidor-2": (1_744, 1488, 2240, 1, 0, 0),
    "aptos2019": (3_662, 2136, 3216, 1, 0, 0),
    "jichi": (9_939, 1600, 2400, 1, 0, 0),
    "lndb": (5_561, 512, 512, 0, 4, 0),
    "inspect": (23_240, 512, 512, 0, 4, 0),
    "kits23": (478, 512, 512, 0, 4, 0),
    "hemorrhage": (2_501, 650, 650, 1, 0, 0),
    "rspect": (1_790_594, 512, 512, 1, 0, 0),
    "busi": (780, 500, 600, 1, 0, 0),
    "covid-blues": (362, 480, 640, 0, 4, 0),
    "covid-us": (99, 480, 640, 0, 4, 0),
    "brain-tumor": (3_264, 512, 512, 1, 0, 0),
    "brain-tumor-2": (253, 400, 350, 1, 0, 0),
    "lc25000": (18_750, 768, 768, 1, 0, 0),
    "bcss": (5_264, 224, 224, 1, 0, 0),
}
ONE_SIZE = ("rspect", "inspect", "lndb", "kits23", "hemorrhage", "lc25000", "ham10000", "bcss")
MIN_PIXELS, MAX_PIXELS, FRAME_MAX_PIXELS = 65_536, 524_288, 262_144
ECG_TOKENS = 50
# (text rows that share a media row, tokens of each, patches per token)
SHAPES = ((1, 8192, 2.6), (4, 4096, 2.6), (4, 8192, 2.6), (1, 8192, 3.5))


def sample(name: str, rng: np.random.Generator) -> dict[str, range]:
    """The lengths that the packer asks for."""
    _, height, width, pictures, frames, ecgs = MIX[name]
    patches = 0
    if pictures or frames:
        spread = np.ones(2) if name in ONE_SIZE else np.exp(rng.normal(0, 0.15, 2))
        limit = FRAME_MAX_PIXELS if frames else MAX_PIXELS
        size = smart_resize(
            int(height * spread[0]),
            int(width * spread[1]),
            min_pixels=MIN_PIXELS,
            max_pixels=limit,
        )
        patches = (pictures or frames // 2) * (size[0] // 14) * (size[1] // 14)
    text = int(rng.integers(60, 160) + rng.integers(30, 200))
    tokens = text + patches // 4 + ecgs * ECG_TOKENS
    return {"patches": range(patches), "ecg": range(ecgs), "input_ids": range(tokens)}


def waste(budget: Budget, temperature: float, count: int, seed: int = 0) -> tuple[float, ...]:
    """(share of tokens left empty, of patches, of ECGs, samples per media row)."""
    rng, names = np.random.default_rng(seed), list(MIX)
    weights = np.array([MIX[name][0] for name in names], float) ** temperature
    used, groups, group = np.zeros(3), 0, GroupPacker(budget)
    filled = np.zeros(3)
    for place in rng.choice(len(names), count, p=weights / weights.sum()):
        one = sample(names[place], rng)
        lengths = np.array([len(one[key]) for key in ("input_ids", "patches", "ecg")])
        if not group.add(one):
            used, groups, group = used + filled, groups + 1, GroupPacker(budget)
            filled = np.zeros(3)
            assert group.add(one), one
        filled += lengths
    room = np.array([budget.rows * budget.tokens, budget.patches, budget.ecgs]) * groups
    return (*(1 - used / room), count / (groups + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20_000)
    count = parser.parse_args().samples
    print("| draws | text rows x tokens | patches | tokens empty | patches empty | ECGs empty |")
    print("|---|---|---|---|---|---|")
    for temperature, ecgs_per_token in ((1.0, 1 / 16_000), (0.5, 1 / 3_000)):
        for rows, tokens, ratio in SHAPES:
            patches = int(rows * tokens * ratio) // 4 * 4
            ecgs = max(round(rows * tokens * ecgs_per_token), 3)
            budget = Budget(rows, tokens, 1, patches, ecgs, pad_id=0)
            *empty, each = waste(budget, temperature, count)
            cells = " | ".join(f"{share:.1%}" for share in empty)
            draws = "by records" if temperature == 1 else f"records ** {temperature:g}"
            print(
                f"| {draws}, {each:.0f} per media row | {rows} x {tokens:,} | {patches:,} | "
                f"{cells} |"
            )


if __name__ == "__main__":
    main()
