"""A decoder-only student beside a decoder-only teacher, for comparison with an encoder-decoder: the same loss.

Both read a word and its sounds as one sequence, so that what one predicts at a position is what the other predicts
there. The package distils into encoder-decoders; here is no more than what a fair peer needs.
"""

from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset
from spelling_teacher import continuations
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from encdec_slm.distillation import LazyLogits, Objective, distillation_loss


class ContinuationDistiller(Trainer):
    """A stock trainer with the loss of `DistillationTrainer`.

    Args:
        teacher: Decoder-only model with the student's tokens; None for the cross-entropy alone.
        alpha: Share of the divergence in the loss if there is a teacher.
    """

    def __init__(self, *args: Any, teacher: PreTrainedModel | None, alpha: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = None if teacher is None else teacher.to(self.args.device).eval()
        self.objective = Objective(alpha=0.0 if teacher is None else alpha)
        # the loss is divided by the number of labels of the whole step
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The mean over the labels of the step, as the base class wants it."""
        teacher = None
        if self.teacher is not None:
            with torch.no_grad():
                teacher = predictions(self.teacher, inputs)
        loss = distillation_loss(
            predictions(model, inputs),
            teacher,
            inputs["labels"][:, 1:],
            objective=self.objective,
            num_items=num_items_in_batch,
        ).loss
        return (loss, {"loss": loss}) if return_outputs else loss


def predictions(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> LazyLogits:
    """What a Llama predicts at all positions but the last, of shape (batch, length - 1, vocab)."""
    states = model.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    return LazyLogits(states[:, :-1], model.lm_head.weight)


def continuation_trainer(
    model: PreTrainedModel,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerFast,
    training: TrainingArguments,
    *,
    teacher: PreTrainedModel | None,
    alpha: float,
) -> ContinuationDistiller:
    """A trainer of a decoder-only student that goes on from a word to its sounds, as the teacher does.

    Args:
        model: The student.
        rows: Rows with columns `source` and `target`.
        tokenizer: That of the student and the teacher.
        training: Arguments of the training; equal seeds give an equal order of the rows.
        teacher: Reads what the student reads; None for a student that learns from the rows alone.
        alpha: Share of the divergence in the loss.
    """
    trainer = ContinuationDistiller(
        model=model,
        args=training,
        train_dataset=continuations(rows, tokenizer),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
        teacher=teacher,
        alpha=alpha,
    )
    set_seed(training.seed)
    return trainer
