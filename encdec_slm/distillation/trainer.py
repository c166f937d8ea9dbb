"""`DistillationTrainer`: a `Seq2SeqTrainer` whose labels are not all that a student learns from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    Seq2SeqTrainer,
    TrainerCallback,
)
from transformers.trainer_utils import EvalLoopOutput

from encdec_slm.distillation.arguments import DistillationArguments
from encdec_slm.distillation.chunked_divergence import IGNORE_INDEX, DistillationLoss
from encdec_slm.distillation.heads import language_model
from encdec_slm.distillation.monitoring import AnswerLog, Stopwatch, Sums, refuse_loss, waiter
from encdec_slm.distillation.preparation import prepare
from encdec_slm.distillation.retokenization import NO_PAIR
from encdec_slm.distillation.sampled_targets import TEACHER_ROWS
from encdec_slm.distillation.step_loss import ROWS, SAMPLES, images_for
from encdec_slm.distillation.student_loading import load_student
from encdec_slm.distillation.teacher_loading import ProcessingClass
from encdec_slm.distillation.teachers import Teacher
from encdec_slm.distillation.wrapped_forward import call_inside
from encdec_slm.parameter_groups import build_optimizer, parse_rates


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from peft import PeftConfig

# what a student reads, of a batch
STUDENT_INPUTS = ("input_ids", "attention_mask", "labels")


class DistillationTrainer(Seq2SeqTrainer):
    """Trains an encoder-decoder on labels and on what a decoder-only teacher says about them.

    The loss is alpha T² D(teacher, student) + (1 - alpha) CE(labels), each averaged over the tokens of the whole step:
    it does not depend on padding, on how a step is divided into batches, or on the number of processes. Stock
    `Seq2SeqTrainer` leaves that to the student, and T5's and BART's own losses are wrong when batches are accumulated.

    Evaluation is on the labels, always: `eval_loss`, and its parts `eval_ce_loss` and `eval_kd_loss`, are exact means
    over the tokens of the dataset. Logs of the training have `ce_loss` and `kd_loss` too, and seconds per step:
    `student_seconds` (forward, loss and backward), `teacher_seconds` and `sampling_seconds`.

    Relies on `Trainer` for two things: that `get_batch_samples` has all batches of a step before the first is used,
    and that a loss divided by the items of the whole step is not divided again (`loss_is_scaled_for_ga`).

    Args:
        model: The student: any `AutoModelForSeq2SeqLM`, also in a `PeftModel`, or the name of one. Images go into its
            encoder.
        teacher: Any `AutoModelForCausalLM` or `AutoModelForImageTextToText`, its name, or a `Teacher`. None for a
            `PeftModel` as the student: its base, without the adapter, is the teacher. Not needed with
            `args.teacher_cache`, or if alpha is 0.
        args: Arguments; those of the class by default.
        data_collator: `DataCollatorForDistillation` by default.
        train_dataset: Rows with `source` and `target`, and optionally `images`, `teacher_prompt`, `messages` or
            `teacher`; see `RowEncoder`. Or rows that are encoded already.
        eval_dataset: Likewise, or a dictionary of such.
        processing_class: The student's tokenizer, or its processor; loaded by the student's name by default.
        teacher_processing_class: The teacher's; loaded by the teacher's name by default.
        compute_metrics: As in `Seq2SeqTrainer`.
        callbacks: As in `Seq2SeqTrainer`.
        optimizers: As in `Seq2SeqTrainer`.
        preprocess_logits_for_metrics: As in `Seq2SeqTrainer`.
        peft_config: Wraps the student in a new adapter.

    Raises:
        ValueError: If student, teacher, tokenizers, datasets and arguments do not fit together.

    Example:
        ```python
        trainer = DistillationTrainer(
            model="student",
            teacher="teacher",
            args=DistillationArguments("distilled", alpha=0.9, bf16=True),
            train_dataset=load_dataset("json", data_files="train.jsonl", split="train"),
        )
        trainer.train()
        ```
    """

    # `compute_loss` divides by the items of the whole step
    loss_is_scaled_for_ga = True

    # narrower than in `Trainer`
    args: DistillationArguments
    processing_class: ProcessingClass
    model: Any

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | str,
        teacher: PreTrainedModel | nn.Module | Teacher | str | None = None,
        args: DistillationArguments | None = None,
        data_collator: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]] | None = None,
        train_dataset: "Dataset | IterableDataset | None" = None,
        eval_dataset: "Dataset | IterableDataset | dict[str, Dataset | IterableDataset] | None" = None,
        processing_class: ProcessingClass | None = None,
        teacher_processing_class: ProcessingClass | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        preprocess_logits_for_metrics: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        peft_config: "PeftConfig | None" = None,
    ) -> None:
        args = DistillationArguments() if args is None else args
        if args.n_gpu > 1:
            raise ValueError(
                f"this process has {args.n_gpu} GPUs, among which DataParallel would divide batches without counting "
                "their tokens: start one process for each (`accelerate launch`), or hide all but one "
                "(CUDA_VISIBLE_DEVICES)"
            )
        if args.torch_compile:
            raise ValueError(
                "torch_compile would compile the student's forward pass, but a distillation step replaces it: leave "
                "it out"
            )
        student, processing_class = load_student(model, processing_class, args, peft_config)
        self._prepared = prepare(student, teacher, args, processing_class, teacher_processing_class)
        super().__init__(
            model=student,
            args=args,
            data_collator=self._prepared.collator if data_collator is None else data_collator,
            train_dataset=self._encoded(train_dataset),
            eval_dataset=self._encoded(eval_dataset),
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        # so that `Trainer` counts the labels of all batches of a step
        self.model_accepts_loss_kwargs = True
        self._stopwatch = Stopwatch(waiter(args.device))
        self._step_loss = self._prepared.step_loss(self._stopwatch)
        self._sums, self._evaluation_sums = Sums(), Sums()
        # since the last log
        self._steps = 0
        self._answers = AnswerLog(self._folder / "samples.jsonl", self._prepared.encoder.tokenizer)
        self._newest_batch: Mapping[str, Any] | None = None

    @property
    def teacher(self) -> Teacher | None:
        """The teacher, if there is one in memory beside the student."""
        return self._prepared.teacher

    @property
    def _folder(self) -> Path:
        # the arguments have put a default there
        return Path(cast(str, self.args.output_dir))

    def _encoded(self, dataset: Any) -> Any:
        if isinstance(dataset, dict):
            return {name: self._encoded(part) for name, part in dataset.items()}
        return None if dataset is None else self._prepared.encode(dataset)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Returns the optimizer, with `args.learning_rate_multipliers`; see `Trainer`."""
        if self.optimizer is None and (rates := parse_rates(self.args.learning_rate_multipliers or [])):
            self.optimizer = build_optimizer(cast(Any, model or self.model), self.args, rates)
        return super().create_optimizer(model)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Returns the batches of an evaluation; see `Trainer`. The dataset may have text columns."""
        dataset = eval_dataset if isinstance(eval_dataset, str) else self._encoded(eval_dataset)
        return super().get_eval_dataloader(dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Returns the batches of a prediction; see `Trainer`. The dataset may have text columns."""
        return super().get_test_dataloader(self._prepared.encode(test_dataset, needs_teacher=False))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Returns all batches of a step, with what is sampled for them, and the number of their labels.

        At the end of a stream, batches that are too few for a step are left out.
        """
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        # a stream may end within a step: `Trainer` would add the gradient of what is left to that of the next step
        if len(batches) < num_batches:
            return [], None
        self._steps += 1
        if self.args.has_samples:
            with self._stopwatch.part("sampling"):
                batches = [self._with_samples(batch) for batch in batches]
            # the teacher's samples take the place of labels
            num_items = self._get_num_items_in_batch(batches, device)
        if self.args.alpha > 0:
            self._count_divergence_items(batches, device)
        return batches, num_items

    def _with_samples(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self._prepared.sampler is None:
            return batch
        model = self.accelerator.unwrap_model(self.model_wrapped)
        return self._prepared.sampler(model, self._prepare_inputs(batch), self.state.global_step)

    def _count_divergence_items(self, batches: list[dict[str, Any]], device: torch.device) -> None:
        items = torch.stack([self._step_loss.count(batch).to(device) for batch in batches]).sum()
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            items = self.accelerator.gather(items).sum()
        for batch in batches:
            batch["num_divergence_items"] = items

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Does a forward and a backward pass; see `Trainer`."""
        with self._stopwatch.part("step"):
            loss = super().training_step(model, inputs, num_items_in_batch)
        self._newest_batch = inputs
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Returns the loss of a batch, divided by the items of the whole step; see `Trainer`.

        Raises:
            FloatingPointError: If it is NaN or infinite. The batch is in the output folder.
            ValueError: If outputs are asked for: there are no logits, since they are never computed as a whole.
        """
        if return_outputs:
            raise ValueError("a distillation step has no outputs: its logits exist only a few positions at a time")
        parts = self._parts(model, inputs, num_items_in_batch)
        refuse_loss(
            parts.loss,
            {"ce_loss": parts.cross_entropy, "kd_loss": parts.divergence},
            inputs,
            self._folder / f"failed_batch_{self.state.global_step}_{self.args.process_index}.safetensors",
        )
        if model.training:
            self._sums.add({"ce_loss": parts.cross_entropy, "kd_loss": parts.divergence})
        # what is divided by the items of all processes, DDP averages over them
        return parts.loss * self.accelerator.num_processes if self._is_global(num_items_in_batch) else parts.loss

    def _parts(
        self, model: nn.Module, inputs: dict[str, Any], num_items: Any = None, *, with_teacher: bool = True
    ) -> DistillationLoss:
        student = language_model(self.accelerator.unwrap_model(model))
        # what is no mean over items is one over batches
        num_batches = 1 if num_items is None else self.current_gradient_accumulation_steps
        if self._is_global(num_items):
            num_batches *= self.accelerator.num_processes

        # tensors in a tuple, which all wrappers look through
        def compute() -> tuple[torch.Tensor, ...]:
            with self.accelerator.autocast():
                parts = self._step_loss(
                    student,
                    inputs,
                    num_items=num_items,
                    num_divergence_items=inputs.get("num_divergence_items"),
                    num_batches=num_batches,
                    with_teacher=with_teacher,
                )
            return tuple(part for part in (parts.loss, parts.cross_entropy, parts.divergence) if part is not None)

        loss, cross_entropy, *divergence = call_inside(
            model, student, compute, **{name: inputs[name] for name in STUDENT_INPUTS}
        )
        return DistillationLoss(loss, cross_entropy, divergence[0] if divergence else None)

    def _is_global(self, num_items: Any) -> bool:
        """Whether items were counted over all processes."""
        return num_items is not None and self.args.average_tokens_across_devices

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Any, Any, Any]:
        """Returns the loss on the labels, and answers or logits; see `Seq2SeqTrainer`."""
        inputs = self._prepare_inputs(inputs)
        # rows that are only to be answered need not be in a cache
        with_teacher = self._prepared.cache is None or "cache_row" in inputs
        counted = self._without_repeated_rows(inputs)
        with torch.no_grad():
            parts = self._parts(model, counted, with_teacher=with_teacher)
        self._add_to_evaluation(parts, counted)
        if prediction_loss_only:
            return parts.loss, None, None
        answers: Any
        # without labels: the loss is there already
        student: Any = language_model(self.accelerator.unwrap_model(model))
        labels, read = inputs["labels"], {name: inputs[name] for name in ("input_ids", "attention_mask")}
        read |= images_for(student, inputs)
        if not self.args.predict_with_generate:
            read["decoder_input_ids"] = student.prepare_decoder_input_ids_from_labels(labels=labels)
            _, logits, _ = super().prediction_step(model, read, False, ignore_keys)
            return parts.loss, logits, labels
        _, answers, _ = super().prediction_step(model, read, False, ignore_keys, **gen_kwargs)
        self._log_answers("student", inputs["input_ids"], answers, labels)
        missing = max(0, answers.shape[1] - labels.shape[1])
        return parts.loss, answers, nn.functional.pad(labels, (0, missing), value=IGNORE_INDEX)

    def _without_repeated_rows(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Returns a batch without targets in the rows that only fill up the last batch, so that none counts twice."""
        state = self.accelerator.gradient_state
        if self.accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return inputs
        first = max(0, state.remainder - self.args.process_index * len(inputs["labels"]))
        names = ("labels", "teacher_labels", "aligned")
        emptied: dict[str, torch.Tensor] = {name: inputs[name].clone() for name in names if name in inputs}
        for name, values in emptied.items():
            values[first:] = NO_PAIR if name == "aligned" else IGNORE_INDEX
        return {**inputs, **emptied}

    def _add_to_evaluation(self, parts: DistillationLoss, inputs: dict[str, Any]) -> None:
        num_labels = inputs["labels"].ne(IGNORE_INDEX).sum()
        self._evaluation_sums.add({"ce_loss": parts.cross_entropy * num_labels, "ce_items": num_labels})
        if parts.divergence is not None:
            items = self._step_loss.count(inputs)
            self._evaluation_sums.add({"kd_loss": parts.divergence * items, "kd_items": items})

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Returns answers and metrics; see `Trainer`. The losses are means over all tokens of the dataset."""
        self._evaluation_sums, self._answers.room = Sums(), self.args.log_samples
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix=metric_key_prefix
        )
        sums = self._evaluation_sums.take(self._add_up)
        means = {
            name: sums[f"{name}_loss"] / sums[f"{name}_items"] for name in ("ce", "kd") if sums.get(f"{name}_items")
        }
        metrics = cast(dict[str, float], output.metrics)
        # not the mean over batches, each of which counts alike
        metrics.pop(f"{metric_key_prefix}_loss", None)
        metrics.update({f"{metric_key_prefix}_{name}_loss": value for name, value in means.items()})
        alpha = self.args.alpha
        if "ce" in means and ("kd" in means or alpha == 0):
            metrics[f"{metric_key_prefix}_loss"] = alpha * means.get("kd", 0.0) + (1 - alpha) * means["ce"]
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs what `Trainer` does, and for the steps since the last time mean losses and seconds per step."""
        if "loss" in logs and self._steps:
            logs = {**logs, **self._means_of_steps()}
            self._log_newest_samples()
        super().log(logs, start_time)

    def _means_of_steps(self) -> dict[str, float]:
        steps, self._steps = self._steps, 0
        losses = self._sums.take(self._add_up)
        if not self.args.average_tokens_across_devices:
            losses = {name: value / self.accelerator.num_processes for name, value in losses.items()}
        seconds = self._stopwatch.take()
        seconds["student"] = seconds.pop("step", 0.0) - seconds.get("teacher", 0.0)
        return {
            **{name: value / steps for name, value in losses.items()},
            **{f"{part}_seconds": value / steps for part, value in sorted(seconds.items())},
        }

    def _add_up(self, value: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(value, "sum")

    def _log_newest_samples(self) -> None:
        batch, self._answers.room = self._newest_batch, self.args.log_samples
        if batch is None:
            return
        if SAMPLES in batch:
            rows = batch[SAMPLES][ROWS]
            self._log_answers("student", batch["input_ids"][rows], batch[SAMPLES]["labels"], batch["labels"][rows])
        if TEACHER_ROWS in batch:
            rows = batch[TEACHER_ROWS]
            self._log_answers("teacher", batch["input_ids"][rows], batch["labels"][rows])

    def _log_answers(
        self, by: str, sources: torch.Tensor, answers: torch.Tensor, labels: torch.Tensor | None = None
    ) -> None:
        """Adds some answers to the file of samples, as many as are left to log."""
        columns = {"source": sources, "answer": answers} | ({} if labels is None else {"target": labels})
        facts = {"step": self.state.global_step, "by": by}
        self._answers.add(facts, is_writing=self.is_world_process_zero(), **columns)
