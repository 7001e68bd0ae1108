"""From rows on disk to fixed-shape batches, in numpy: read, check, cut, tokenize, pack, resume
exactly.
"""
