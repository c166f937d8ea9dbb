"""Foreign checkpoints into folders of ours, which `AutoModelForSeq2SeqLM.from_pretrained` loads."""

from encdec_slm.conversion.original import convert_original


__all__ = ["convert_original"]
