"""Generation: from files or arrays to answers.

Modules: `sampling` (one token from logits; also the RL sampler's), `inputs` (samples in files,
arrays or already
processed -> what data/packing.py packs), `engine` (the KV cache, prefill, decode steps and the
refill of finished rows), `text` (token ids to text while they come, stop strings) and `model`
(`qoq_jax.load` and its Model).
"""
