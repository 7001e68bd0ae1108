"""Makes a tokenizer like data/assets/nano_tokenizer.json, the 1024-id tokenizer of nano.

    python -m qoq_jax.climb.mini.train_tokenizer --output=tokenizer.json

A nano model answers within a few seconds on a CPU only if an answer is short, so the vocabulary is
spent where answers are: 256 bytes (any text round-trips), every integer 0..255 (coordinates), the
fixed pieces of the answer format, then the words of the corpus that save most tokens, then
byte-pair merges for all other words. The last 23 ids are the special tokens of Qwen2.5-VL in their
order. Same input, same file: no randomness, ties are broken by spelling.

The file in use was made from an earlier corpus and is not made again: its ids are those of all
checkpoints of nano, and of the quickstart's numbers. A new one is written elsewhere with --output.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from qoq_jax.climb.labels import chest_xray, ecg
from qoq_jax.climb.mini import build as synthetic
from qoq_jax.climb.samples import convert as samples_convert
from qoq_jax.data import chat
from qoq_jax.models.sizes import NANO_FIRST_SPECIAL, SPECIAL_TOKENS

NUMBERS = 256  # integers below are one token
MERGES = 150  # ids spent on byte-pair merges, for words outside the corpus

# Pieces of chat.answer_text and of the chat template that never vary: one token each.
FIXED = (
    '```json\n[{"bbox_2d": [',
    '], "label": "',
    '"}, {"bbox_2d": [',
    '"}]\n```\n<think>',
    "```json\n[]\n```\n<think>",
    "</think>\n\\boxed{",
    "system\n",
    "user\n",
    "assistant\n",
)

# Labels of data sets, one an entry: a label is never cut at the end of a line.
LABELS = (
    *ecg.CLASSES,
    *chest_xray.CHEXPERT,
    "Lung tumor",
    "Tuberculosis",
    "COPD",
    "Other diseases",
    "No finding",
    "Bacterial Pneumonia",
    "Viral Pneumonia",
    "COVID-19",
    "BI-RADS 0",
    "BI-RADS 1",
    "BI-RADS 2",
    "BI-RADS 3",
    "BI-RADS 4",
    "BI-RADS 5",
    "Benign",
    "Malignant",
    "Melanoma",
    "Nevus",
    "Basal Cell Carcinoma",
    "Actinic Keratosis",
    "MEL",
    "NV",
    "BCC",
    "AKIEC",
    "OTHER",
    "No DR",
    "Mild",
    "Moderate",
    "Severe",
    "Proliferative DR",
    "None",
    "Mild DR",
    "Moderate DR",
    "Severe DR",
    "PDR",
    "SDR",
    "PPDR",
    "nodule >= 3 mm",
    "nodule < 3 mm",
    "non-nodule",
    "No Hemorrhage",
    "Has Hemorrhage",
    "No PE",
    "Chronic PE",
    "Acute PE",
    "Has COVID",
    "No COVID",
    "covid",
    "pneumonia",
    "normal",
    "No Tumor",
    "Pituitary Tumor",
    "Glioma Tumor",
    "Meningioma Tumor",
    "yes",
    "no",
    "colon adenocarcinoma",
    "benign colon",
    "lung adenocarcinoma",
    "lung squamous cell carcinoma",
    "benign lung",
    "Tumor",
    "Stroma",
    "Lymphocytic infiltrate",
    "Necrosis/debris",
)

QUESTIONS = (
    "Above is a chest X-ray image of a patient. What is the diagnosis of the patient "
    "in the X-ray image?",
    "Above is a dermoscopy image of a skin lesion. What is the diagnosis of the lesion "
    "in the image?",
    "Above is a fundus photograph of an eye. What is the grade of diabetic retinopathy?",
    "Above is a mammography image of a breast. What is the assessment of the finding?",
    "Above is a pathology image of tissue under the microscope. What tissue type does it show?",
    "Above are slices of a CT scan of a patient. What is the diagnosis?",
    "Above are slices of a brain MRI of a patient. What type of tumor is present?",
    "Above are frames of an ultrasound video of a patient. What is the diagnosis?",
    "Above is a 12-lead ECG recording of a patient. What is the diagnosis of the patient "
    "based on the ECG?",
    "Answer with one phrase from the following: "
    "Answer with one or multiple phrases from the following:",
)

FINDINGS = (
    "The image shows a round lesion with a smooth border in the left upper lobe",
    "The heart is enlarged",
    "The lungs are clear",
    "There is a dense opacity in the right lower zone with air bronchograms",
    "No pleural effusion and no pneumothorax",
    "The rhythm is regular with a normal axis and normal intervals",
    "The rhythm is irregular without P waves",
    "ST elevation in V1 to V4",
    "The QRS complex is wide with a bundle branch block",
    "High voltage in V5 and V6 with inverted T waves",
    "An irregular dark mass with a spiculated margin lies in the upper outer quadrant",
    "Small bright calcifications are seen",
    "The lesion is asymmetric with several colors and an irregular pigment network",
    "The pigment is even and the border is sharp",
    "Microaneurysms, hemorrhages and hard exudates are seen near the macula",
    "New vessels at the optic disc",
    "The nuclei are large, dark and crowded with irregular glands",
    "The glands are regular with small nuclei",
    "A hyperdense region is seen in the left hemisphere with mass effect",
    "A bright ring around a dark center with edema",
    "The mass is hypoechoic with a posterior shadow",
    "B-lines and an irregular pleural line",
    "The wall is thin and the shape is oval",
)


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Fixed pieces; words with one leading space; up to three digits; whole runs of everything
    else.
    """
    fixed = "|".join(map(re.escape, FIXED))
    pattern = rf"{fixed}| ?\p{{L}}+|\p{{N}}{{1,3}}|(?:(?!{fixed}| \p{{L}})[^\p{{L}}\p{{N}}])+"
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def corpus() -> Iterator[str]:
    """Questions and answers: 3,000 of climb-mini, those of the real samples, then labels and
    findings of other data sets.
    """
    for problem, answer, reasoning in synthetic.corpus(3000):
        yield problem
        yield chat.answer_text([answer], [(1, 2, 30, 40)], [answer], reasoning)
    for text in samples_convert.texts():
        yield from [text] * 20  # as often as the rows of a small data set of climb-mini
    yield from QUESTIONS
    yield "one phrase from the following: " + ", ".join(LABELS)
    for index, label in enumerate(LABELS):
        yield chat.answer_text([label], reasoning=FINDINGS[index % len(FINDINGS)])
    yield from FINDINGS


def build(texts: Iterable[str]) -> dict:
    """The tokenizer.json for a corpus, as a dict."""
    split = pre_tokenizer()
    words: collections.Counter[str] = collections.Counter()
    for text in texts:
        words.update(word for word, _ in split.pre_tokenize_str(text))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = dict.fromkeys(alphabet)  # an ordered set
    vocab.update(dict.fromkeys(str(number) for number in range(NUMBERS)))
    vocab.update(dict.fromkeys(split.pre_tokenize_str(piece)[0][0] for piece in FIXED))

    def saving(word: str) -> tuple[int, str]:
        """Sorts words by the tokens that one id for them saves, most first."""
        return -words[word] * (len(word) - 1), word

    merges = [(a, b) for a in "123456789" for b in "0123456789"]
    room = NANO_FIRST_SPECIAL - MERGES
    for word in sorted(words, key=saving):
        if len(vocab) < room and len(word) > 1:
            vocab[word] = None
    for pair in byte_pair_merges(words):
        if len(vocab) == NANO_FIRST_SPECIAL:
            break
        merges.append(pair)
        vocab["".join(pair)] = None
    if len(vocab) != NANO_FIRST_SPECIAL:
        raise ValueError(
            f"the corpus gives {len(vocab)} tokens, {NANO_FIRST_SPECIAL} are needed: add text"
        )
    # ignore_merges: a word that is in the vocabulary is one token even when no chain of merges
    # leads to it.
    ids = {token: index for index, token in enumerate(vocab)}
    model = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=True))
    model.pre_tokenizer = split
    model.decoder = decoders.ByteLevel()
    model.add_special_tokens(
        [tokenizers.AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS]
    )
    return json.loads(model.to_str())


def byte_pair_merges(words: dict[str, int]) -> Iterator[tuple[str, str]]:
    """The pairs that byte-pair encoding merges, most frequent first.

    Words count by the root of their frequency, to keep a few frequent words from taking all merges:
    these serve text that the corpus does not hold.
    """
    pieces = {word: list(word) for word in words}
    while True:
        pairs: collections.Counter[tuple[str, str]] = collections.Counter()
        for word, parts in pieces.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word] ** 0.5
        if not pairs:
            return
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        yield best
        for parts in pieces.values():
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == best:
                    parts[at : at + 2] = ["".join(best)]
                at += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    text = json.dumps(build(corpus()), ensure_ascii=False, indent=1) + "\n"
    args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
