"""The Hugging Face Hub: publish a model, with a card, and load one without trusting it blindly."""

from encdec_slm.hub.load import LoadedModel, load
from encdec_slm.hub.push import PushResult, push


__all__ = ["LoadedModel", "PushResult", "load", "push"]
