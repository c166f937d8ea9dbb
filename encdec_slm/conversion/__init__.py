"""Foreign checkpoints into models and folders of ours, which the Auto classes load."""

from encdec_slm.conversion.decoder_only import DecoderOnlyConversion, convert_decoder_only, from_decoder_only
from encdec_slm.conversion.original import convert_original
from encdec_slm.conversion.original_vision import convert_original_vision


__all__ = [
    "DecoderOnlyConversion",
    "convert_decoder_only",
    "convert_original",
    "convert_original_vision",
    "from_decoder_only",
]
