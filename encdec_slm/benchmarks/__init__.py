"""How fast a model answers, always beside a peer in the same run: `encdec-slm benchmark`.

Nothing here knows which model is ours: everything takes a model from outside, or a configuration by its name.
"""
