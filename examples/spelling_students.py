"""The students of the spelling-to-sound demo: a tiny encoder-decoder, with and without the teacher's probabilities."""

from collections.abc import Callable
from dataclasses import replace

from datasets import Dataset
from spelling_scores import LONGEST_ANSWER
from spelling_teacher import TEACHER_TEMPLATE
from transformers import PreTrainedModel, PreTrainedTokenizerFast, set_seed

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
from encdec_slm.distillation import DistillationArguments, DistillationTrainer


# Chosen on the validation split. Rows are not grouped by length: batches of one length each unlearn the others', and
# what that saves in padding it loses many times in errors.
STUDENT_RECIPE = {
    "max_steps": 700,
    "alpha": 0.5,
    "per_device_train_batch_size": 64,
    "learning_rate": 2e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 150,
    "adam_beta2": 0.98,
    "logging_steps": 250,
    "dataloader_pin_memory": False,
    "save_strategy": "no",
    "teacher_template": TEACHER_TEMPLATE,
}
# about 1 / sqrt(hidden size), as suits an embedding that is also the head; with 0.02 such a short training ends early
INITIALIZER_RANGE = 0.09
# nothing that a teacher would be needed for
ROWS_ALONE = {"alpha": 0.0, "on_policy_fraction": 0.0, "teacher_samples_fraction": 0.0}


def build_model(tokenizer: PreTrainedTokenizerFast) -> EncDecSLMForConditionalGeneration:
    """The `tiny` preset without dropout: in a few epochs it does not overfit, and no random masks are faster."""
    config = EncDecSLMConfig.from_preset(
        "tiny",
        vocab_size=len(tokenizer),
        initializer_range=INITIALIZER_RANGE,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
    )
    for stack in (config.encoder, config.decoder):
        stack.dropout = stack.attention_dropout = 0.0
    model = EncDecSLMForConditionalGeneration(config)
    model.generation_config.max_new_tokens = LONGEST_ANSWER
    return model


def student_trainer(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerFast,
    training: DistillationArguments,
    teacher: PreTrainedModel | None = None,
    build: Callable[[PreTrainedTokenizerFast], PreTrainedModel] = build_model,
) -> DistillationTrainer:
    """A trainer of a new student; equal seeds give equal weights at the start and an equal order of the rows.

    Args:
        rows: Rows with columns `source` and `target`.
        tokenizer: That of the student and the teacher.
        training: Arguments of the training.
        teacher: A decoder-only model that reads `TEACHER_TEMPLATE`. Without one the student learns from the rows
            alone, by the same recipe.
        build: Makes the student, an encoder-decoder.
    """
    set_seed(training.seed)
    trainer = DistillationTrainer(
        model=build(tokenizer),
        teacher=teacher,
        args=replace(training, **ROWS_ALONE) if teacher is None else training,
        train_dataset=rows.select_columns(["source", "target"]),
        processing_class=tokenizer,
        teacher_processing_class=None if teacher is None else tokenizer,
    )
    # the order of the rows is drawn when the training starts; a teacher may have drawn numbers before
    set_seed(training.seed)
    return trainer
