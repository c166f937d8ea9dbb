"""Data sets for the examples, built from files that are already on this computer; `python examples/data/NAME.py`."""
