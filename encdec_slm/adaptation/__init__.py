"""Self-supervised adaptation of any encoder-decoder: `python -m encdec_slm.adaptation`.

Nothing here knows which model is ours: T5, BART and the models of this package are treated alike.
"""

from encdec_slm.adaptation.collator import DataCollatorForDenoising, DenoisedDataset, NewNoiseEachEpoch
from encdec_slm.adaptation.denoising import UL2_R, UL2_S, UL2_X, Denoiser, PrefixLM, SpanCorruption
from encdec_slm.adaptation.sentinels import add_sentinels, sentinel_ids
from encdec_slm.adaptation.text_dataset import chunk_texts
from encdec_slm.parameter_groups import build_optimizer, freeze, parameter_groups


__all__ = [
    "UL2_R",
    "UL2_S",
    "UL2_X",
    "DataCollatorForDenoising",
    "DenoisedDataset",
    "Denoiser",
    "NewNoiseEachEpoch",
    "PrefixLM",
    "SpanCorruption",
    "add_sentinels",
    "build_optimizer",
    "chunk_texts",
    "freeze",
    "parameter_groups",
    "sentinel_ids",
]
