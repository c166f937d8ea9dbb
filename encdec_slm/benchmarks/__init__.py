"""How fast a model answers, always beside a peer in the same run: `python -m encdec_slm.benchmarks`.

Nothing here knows which model is ours: everything takes a model from outside, or a configuration by its name.
"""
