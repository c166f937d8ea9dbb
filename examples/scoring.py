"""How good answers are, for all examples that compare models."""

from collections.abc import Iterable, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from encdec_slm.evaluation import metrics


def bleu(answers: Sequence[str], targets: Sequence[str]) -> float:
    """BLEU of sacrebleu with its default tokenization, from 0 to 100."""
    return metrics.bleu(predictions=answers, references=targets)["bleu"]


def rouge_l(answers: Sequence[str], targets: Sequence[str]) -> float:
    """Mean ROUGE-L F1 with stemming, from 0 to 100."""
    return metrics.rouge(predictions=answers, references=targets)["rougeL"]


def products_in(dtype: torch.dtype, model: PreTrainedModel) -> torch.autocast:
    """A context in which products of a float32 model are computed in `dtype`."""
    return torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32)


@torch.no_grad()
def loss_per_token(
    model: PreTrainedModel, batches: Iterable[dict[str, torch.Tensor]], dtype: torch.dtype = torch.float32
) -> float:
    """The mean loss in nats a token, of products in `dtype`."""
    total, tokens = 0.0, 0
    for batch in batches:
        with products_in(dtype, model):
            loss = model(**batch).loss
        count = int((batch["labels"] != -100).sum())
        total, tokens = total + loss.item() * count, tokens + count
    return total / tokens


@torch.no_grad()
def answer(
    model: PreTrainedModel,
    batches: Iterable[dict[str, torch.Tensor]],
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    dtype: torch.dtype = torch.float32,
) -> list[str]:
    """Greedy answers to the sources, of products in `dtype`."""
    answers = []
    for batch in batches:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with products_in(dtype, model):
            ids = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        answers += [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    return answers
