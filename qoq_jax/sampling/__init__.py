"""Sampling: from files, arrays or packed batches to responses.

- `tokens`: one token from logits.
- `loop`: the one decode loop; slots with a KV cache, prefill, what a call of `decode` is asked for.
- `schedule`: which row of which slot works on which response, on the host.
- `rollout`: all responses to a packed batch in one call, and their log-probabilities.
- `sampler`: packed batches through the slots: RL rollouts and evaluation.
- `batches`, `engine`: prepared samples of any shape through the slots.
- `inputs`: samples in files, arrays or already processed -> what data/packing.py packs.
- `stream`: token ids to text while they come, stop strings.
- `model`: a model to ask; `qoq_jax.load` is train/load.py.
"""
