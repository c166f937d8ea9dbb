"""Evaluation of any model on the paper's tasks and on your own: metrics, tasks, answers, a judge.

Nothing here knows which model is ours: any encoder-decoder and any decoder-only model is asked alike.
"""
