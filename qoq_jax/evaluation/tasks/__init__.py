"""Evaluation on published sets of questions: what they are (table.py), how their released files
become questions (layouts.py, ecg_qa.py, row_sets.py), how a response is read and scored
(answers.py, scores.py), and the evaluation itself (evaluate.py).
"""
