"""Foreign checkpoints into models and folders of ours, which `AutoModelForSeq2SeqLM.from_pretrained` loads."""

from encdec_slm.conversion.decoder_only import DecoderOnlyConversion, convert_decoder_only, from_decoder_only
from encdec_slm.conversion.original import convert_original


__all__ = ["DecoderOnlyConversion", "convert_decoder_only", "convert_original", "from_decoder_only"]
