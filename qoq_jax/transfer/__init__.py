"""Encoders trained on the labels of many data sets at once, and what of that carries over to others
(CLIMB, arXiv 2503.07667, RQ1 and RQ2); fusion of a patient's modalities (RQ3, fusion*.py).
"""
