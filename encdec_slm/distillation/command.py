"""What the commands `distill` and `teacher-cache` do: both read the same arguments."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from transformers import AutoTokenizer, PreTrainedTokenizerBase, TrainingArguments, set_seed
from trl import ModelConfig, get_peft_config, get_quantization_config

from encdec_slm.distillation.arguments import DistillationArguments
from encdec_slm.distillation.cache_writer import CacheReport, write_teacher_cache
from encdec_slm.distillation.preparation import prepare
from encdec_slm.distillation.row_sources import RowArguments, load_rows
from encdec_slm.distillation.student_loading import load_student
from encdec_slm.distillation.teacher_loading import tokenizer_options
from encdec_slm.distillation.teachers import Teacher
from encdec_slm.distillation.trainer import DistillationTrainer


# of a teacher cache
TOP_K = 64


@dataclass
class StudentConfig(ModelConfig):
    """The student, and the LoRA adapter that it gets with `use_peft`."""

    model_name_or_path: str = field(metadata={"help": "Folder or name of any AutoModelForSeq2SeqLM, the student."})
    lora_task_type: str = field(default="SEQ_2_SEQ_LM", metadata={"help": "Task type to pass for LoRA."})

    def init_kwargs(self) -> dict[str, Any]:
        """Returns the arguments of `from_pretrained` that were given."""
        options = {
            "revision": self.model_revision,
            "dtype": self.dtype,
            "attn_implementation": self.attn_implementation,
            "quantization_config": get_quantization_config(self),
        }
        return {name: value for name, value in options.items() if value is not None}


@dataclass
class ScriptArguments(RowArguments):
    """Teacher, tokenizer and rows."""

    teacher_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or name of any AutoModelForCausalLM, or of an adapter of one. Not needed with --alpha 0, "
            "nor with --use_peft, where the student without its adapter can be the teacher."
        },
    )
    tokenizer_name: str | None = field(default=None, metadata={"help": "Folder or name, if it is not the student's."})


def distill(script: ScriptArguments, student: StudentConfig, training: DistillationArguments) -> dict[str, float]:
    """Trains a student and saves it with its tokenizer to `training.output_dir`.

    A training that resumes from a checkpoint ends with the weights it would have had.

    Args:
        script: Teacher and rows.
        student: Who learns.
        training: Of `DistillationTrainer`; `resume_from_checkpoint` continues a training that was interrupted.

    Returns:
        The metrics on the held-out rows, such as `eval_loss`.

    Raises:
        ValueError: If the arguments do not fit together, or the output folder holds something already and the
            training does not resume.
    """
    refuse_full_folder(training)
    # an adapter is drawn before there is a trainer
    set_seed(training.seed)
    training = copy.copy(training)
    training.model_init_kwargs = _init_kwargs(student, training)
    with training.main_process_first(desc="reading the rows"):
        train, held_out = load_rows(script)
    trainer = DistillationTrainer(
        model=student.model_name_or_path,
        teacher=script.teacher_name_or_path,
        args=training,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=_tokenizer(script, training),
        peft_config=get_peft_config(student),
    )
    learnt = trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("train", learnt.metrics)
    trainer.save_metrics("eval", metrics)
    return metrics


def cache_teacher(
    script: ScriptArguments, student: StudentConfig, training: DistillationArguments
) -> dict[str, CacheReport]:
    """Writes what the teacher says about all rows to `training.teacher_cache`, or goes on with it.

    Rows are encoded as `distill` does with the same arguments. `training.top_k` tokens are kept, `TOP_K` by default.
    The teacher reads `training.per_device_eval_batch_size` rows at a time.

    Args:
        script: Teacher and rows.
        student: Whose tokenizer makes the labels.
        training: As `distill` is to have it.

    Returns:
        What the cache held after the rows to train on, and after those to evaluate on.

    Raises:
        ValueError: If the arguments do not fit together, or as `write_teacher_cache` does.
    """
    if training.teacher_cache is None:
        raise ValueError("say where the teacher cache is to be: --output FOLDER, or teacher_cache")
    if script.teacher_name_or_path is None:
        raise ValueError("there is no teacher to ask: give its name as teacher_name_or_path")
    rows = dict(zip(("train", "validation"), load_rows(script), strict=True))
    folder, training = training.teacher_cache, copy.copy(training)
    # the teacher itself is asked, and the student's weights do not matter
    training.teacher_cache = None
    training.model_init_kwargs = _init_kwargs(student, training) | {"device_map": "meta"}
    model, processing_class = load_student(student.model_name_or_path, _tokenizer(script, training), training)
    prepared = prepare(model, script.teacher_name_or_path, training, processing_class, None)
    return {
        split: write_teacher_cache(
            folder,
            cast(Teacher, prepared.teacher),
            prepared.encode(dataset),
            collator=prepared.collator,
            student_tokenizer=prepared.encoder.tokenizer,
            top_k=TOP_K if training.top_k is None else training.top_k,
            temperature=training.temperature,
            shared_ids=prepared.shared_ids,
            batch_size=training.per_device_eval_batch_size,
            chunk_size=training.chunk_size,
            teacher_name=script.teacher_name_or_path,
        )
        for split, dataset in rows.items()
    }


def refuse_full_folder(training: TrainingArguments) -> None:
    """Refuses to write a training's results where something is.

    Raises:
        ValueError: If the output folder holds something already and the training does not resume.
    """
    folder = Path(str(training.output_dir))
    if training.resume_from_checkpoint is None and training.should_save and folder.exists() and any(folder.iterdir()):
        raise ValueError(
            f"the output folder {folder} already holds something: name another folder, or continue an interrupted "
            "training with resume_from_checkpoint"
        )


def _init_kwargs(student: StudentConfig, training: DistillationArguments) -> dict[str, Any]:
    """Returns the arguments of `from_pretrained` for the student; of two for the same the one for the trainer."""
    return student.init_kwargs() | cast(dict[str, Any], training.model_init_kwargs or {})


def _tokenizer(script: ScriptArguments, training: DistillationArguments) -> PreTrainedTokenizerBase | None:
    """Returns the tokenizer that was named, if one was."""
    if script.tokenizer_name is None:
        return None
    options = tokenizer_options(cast(dict[str, Any], training.model_init_kwargs))
    # but for those that say where the model is
    return AutoTokenizer.from_pretrained(
        script.tokenizer_name,
        **{name: value for name, value in options.items() if name not in ("revision", "subfolder")},
    )
