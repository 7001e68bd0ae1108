"""The reward of the run in this folder: something that random weights can earn."""


def share_of_vowels(text, meta):
    return sum(c in "aeiou" for c in text) / max(len(text), 1)
