"""Distillation of a decoder-only teacher into an encoder-decoder student: what is minimised.

Nothing here knows which model is ours: any student and any teacher are treated alike.
"""

from encdec_slm.distillation.arguments import DistillationArguments
from encdec_slm.distillation.chunked_divergence import (
    IGNORE_INDEX,
    DistillationLoss,
    LazyLogits,
    Objective,
    distillation_loss,
)
from encdec_slm.distillation.divergences import (
    Divergence,
    DivergenceName,
    TopK,
    divergence_from_logits,
    divergence_from_top_k,
    masked_mean,
    top_k_of_logits,
)
from encdec_slm.distillation.trainer import DistillationTrainer
from encdec_slm.distillation.vocabularies import count_shared_ids, to_shared_ids


__all__ = [
    "IGNORE_INDEX",
    "DistillationArguments",
    "DistillationLoss",
    "DistillationTrainer",
    "Divergence",
    "DivergenceName",
    "LazyLogits",
    "Objective",
    "TopK",
    "count_shared_ids",
    "distillation_loss",
    "divergence_from_logits",
    "divergence_from_top_k",
    "masked_mean",
    "to_shared_ids",
    "top_k_of_logits",
]
