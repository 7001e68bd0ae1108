"""Encoders trained on the labels of many data sets at once, and what of that carries over to others
(CLIMB, arXiv 2503.07667, RQ1 and RQ2).
"""
