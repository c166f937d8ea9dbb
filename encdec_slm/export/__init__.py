"""Models of ours in the formats of other engines, and the models that run them with `generate`.

What an engine needs is imported when it is used: importing this part needs none of them.
"""

from encdec_slm.export.load import is_exported, load_exported


__all__ = ["is_exported", "load_exported"]
