"""From student, teacher, tokenizers and arguments to what a training needs of them."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from encdec_slm.distillation.arguments import DistillationArguments
from encdec_slm.distillation.cache import TeacherCache, row_key
from encdec_slm.distillation.collator import DataCollatorForDistillation
from encdec_slm.distillation.columns import is_encoded
from encdec_slm.distillation.heads import language_model
from encdec_slm.distillation.image_text import (
    ImageTextReader,
    optional_image_token,
    placeholder_ids,
    processor_of,
    tokenizer_of,
)
from encdec_slm.distillation.images import IMAGES
from encdec_slm.distillation.monitoring import Stopwatch
from encdec_slm.distillation.prompts import end_exchange, end_of_answer
from encdec_slm.distillation.retokenization import Retokenizer
from encdec_slm.distillation.row_reader import RowReader
from encdec_slm.distillation.rows import RowEncoder, encode_rows
from encdec_slm.distillation.sampled_targets import TargetSampler
from encdec_slm.distillation.signals import CachedSignal, LiveSignal, OwnBaseSignal, TopKChoice
from encdec_slm.distillation.step_loss import Batch, Signal, StepLoss
from encdec_slm.distillation.student_loading import reads_images
from encdec_slm.distillation.teacher_check import check_teacher
from encdec_slm.distillation.teacher_loading import (
    ProcessingClass,
    load_processing_class,
    load_teacher,
    tokenizer_options,
)
from encdec_slm.distillation.teachers import SelfTeacher, Teacher
from encdec_slm.distillation.text_offsets import aligned_positions
from encdec_slm.distillation.vocabularies import count_shared_ids


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a training needs of teacher and tokenizers.

    Args:
        args: Arguments of the training.
        encoder: Makes ids of rows of text.
        collator: Makes batches of ids.
        signal: What the teacher says; None if nobody is asked.
        shared_ids: How many ids mean the same to teacher and student; None with different tokenizers.
        teacher: A teacher in memory beside the student.
        cache: What a teacher has said.
        sampler: Answers rows; None if none are answered.
    """

    args: DistillationArguments
    encoder: RowEncoder
    collator: DataCollatorForDistillation
    signal: Signal | None = None
    shared_ids: int | None = None
    teacher: Teacher | None = None
    cache: TeacherCache | None = None
    sampler: TargetSampler | None = None

    def encode(self, dataset: "Dataset | IterableDataset", *, needs_teacher: bool = True) -> Any:
        """Returns a dataset of ids; one that has ids already stays as it is.

        Args:
            dataset: Rows of text, or of ids.
            needs_teacher: Whether a row that a cache lacks is an error.

        Raises:
            ValueError: If rows cannot be encoded, or a cache does not have them.
        """
        names = dataset.column_names or list(next(iter(dataset), {}))
        if IMAGES in names:
            self._check_images(dataset)
        if not is_encoded(names):
            with self.args.main_process_first(desc="encoding rows"):
                dataset = encode_rows(dataset, self.encoder)
        if self.cache is None or "cache_row" in names or not needs_teacher:
            return dataset
        return self._with_cache_rows(self.cache, dataset)

    def _check_images(self, dataset: Any) -> None:
        from datasets import IterableDataset

        if self.cache is not None:
            raise ValueError(
                "the dataset has images, but a teacher_cache tells rows apart by the ids that the teacher reads, "
                "which are the same for different images of one size: give the teacher itself"
            )
        # made of whatever was given, by the arguments themselves
        config: Any = self.args.accelerator_config
        dispatches = config.dispatch_batches is not False
        if isinstance(dataset, IterableDataset) and self.args.world_size > 1 and dispatches:
            raise ValueError(
                f"the dataset is a stream with images, of which one of the {self.args.world_size} processes would "
                "read all batches and send parts of their tensors to the others: set accelerator_config="
                "{'dispatch_batches': False}, so that each reads its own, or give a dataset that is not streamed"
            )

    def _with_cache_rows(self, cache: TeacherCache, dataset: Any) -> Any:
        from datasets import Dataset

        if not isinstance(dataset, Dataset):
            raise ValueError(
                "a teacher_cache is searched for the rows of a dataset, but the dataset is a "
                f"{type(dataset).__name__}, which is read along the way: give one that is not streamed"
            )
        rows = dataset.with_format(None)
        keys = [
            row_key(prompt, labels) for prompt, labels in zip(rows["teacher_prompt_ids"], rows["labels"], strict=True)
        ]
        indices = rows["teacher_index"] if "teacher_index" in rows.column_names else None
        return dataset.add_column("cache_row", cache.rows_of(keys, indices))

    def step_loss(self, stopwatch: Stopwatch) -> StepLoss:
        """Returns how the loss of a batch is put together.

        Args:
            stopwatch: Takes the seconds of the teacher.
        """
        return StepLoss(
            objective=self.args.objective(),
            alpha=self.args.alpha,
            signal=None if self.signal is None else _timed(self.signal, stopwatch),
            shared_ids=self.shared_ids,
            chunk_size=self.args.chunk_size,
            universal_temperature=self.args.temperature if self.args.is_universal else None,
            is_original=self.args.reproduce_original,
        )


def prepare(
    student: nn.Module,
    teacher: "PreTrainedModel | nn.Module | Teacher | str | None",
    args: DistillationArguments,
    processing_class: ProcessingClass,
    teacher_processing_class: ProcessingClass | None,
) -> Prepared:
    """Returns what a training needs of teacher and tokenizers.

    Args:
        student: An encoder-decoder, or a `PeftModel` of one.
        teacher: As `DistillationTrainer` takes it.
        args: Arguments of the training.
        processing_class: The student's tokenizer, or its processor if it reads images.
        teacher_processing_class: The teacher's; loaded by its name if not given.

    Raises:
        ValueError: If they do not fit together.
    """
    if args.teacher_cache is not None:
        return _with_cache(student, teacher, args, processing_class, teacher_processing_class)
    if teacher is not None:
        return _with_teacher(student, teacher, args, processing_class, teacher_processing_class)
    if args.alpha > 0 or args.teacher_samples_fraction > 0:
        return _with_own_base(student, args, processing_class)
    return _prepared(student, args, _encoder(student, args, processing_class, None), processing_class)


def _with_teacher(
    student: nn.Module,
    teacher: Any,
    args: DistillationArguments,
    processing_class: ProcessingClass,
    teacher_processing_class: ProcessingClass | None,
) -> Prepared:
    teacher = _loaded(teacher, args, teacher_processing_class).to(args.device)
    below, tokenizer = language_model(teacher.model), tokenizer_of(processing_class)
    ends = below.generation_config.eos_token_id
    shared_ids = None
    if not args.is_universal:
        shared_ids = _shared_ids(teacher.tokenizer, tokenizer, below, language_model(student))
        if teacher.exchange is None:
            teacher.exchange = end_exchange(tokenizer, teacher.processing_class, teacher_eos_token_ids=ends)
    if args.check_teacher:
        check_teacher(teacher)
    encoder = _encoder(student, args, processing_class, teacher.processing_class)
    encoder = replace(
        encoder,
        teacher_max_length=_longest(below),
        sampled_length=args.max_target_length if args.has_samples else 0,
        adapter_indices={name: index for index, name in enumerate(teacher.adapters)} or None,
        align=aligned_positions if args.is_universal else None,
        teacher_eos_token_id=end_of_answer(teacher.processing_class, ends)[0],
    )
    signal = LiveSignal(teacher=teacher, is_universal=args.is_universal, choice=_choice(args, shared_ids))
    parts = {"signal": signal, "shared_ids": shared_ids, "teacher": teacher}
    return _prepared(student, args, encoder, processing_class, teacher.reader, **parts)


def _with_cache(
    student: nn.Module,
    teacher: Any,
    args: DistillationArguments,
    processing_class: ProcessingClass,
    teacher_processing_class: ProcessingClass | None,
) -> Prepared:
    if teacher is not None and not isinstance(teacher, str):
        raise ValueError(
            f"there is a teacher ({type(teacher).__name__}) and a teacher_cache ({args.teacher_cache}): a training "
            "asks one of them"
        )
    cache = TeacherCache.open(str(args.teacher_cache))
    if teacher_processing_class is None:
        name = teacher or cache.provenance.teacher_name
        if not name:
            raise ValueError(
                f"the teacher of the cache {args.teacher_cache} has no name: pass its tokenizer as "
                "teacher_processing_class"
            )
        teacher_processing_class = load_processing_class(name, tokenizer_options(args.teacher_options()))
    tokenizer, teacher_tokenizer = tokenizer_of(processing_class), tokenizer_of(teacher_processing_class)
    # of the model nothing is known but how many of its ids the cache chose from
    shared_ids = count_shared_ids(teacher_tokenizer, tokenizer)
    shared_ids = min(shared_ids, language_model(student).get_output_embeddings().weight.shape[0])
    cache.check(
        teacher_tokenizer=teacher_tokenizer,
        student_tokenizer=tokenizer,
        temperature=args.temperature,
        shared_ids=shared_ids,
        exchange=cache.provenance.exchange,
        teacher_name=teacher,
    )
    if args.top_k not in (None, cache.provenance.top_k):
        raise ValueError(
            f"top_k is {args.top_k}, but the teacher cache {args.teacher_cache} has {cache.provenance.top_k} tokens "
            "of each position: leave top_k out, or write another cache"
        )
    adapters = {name: index for index, name in enumerate(cache.provenance.adapters)} or None
    encoder = replace(_encoder(student, args, processing_class, teacher_processing_class), adapter_indices=adapters)
    parts = {"signal": CachedSignal(cache), "shared_ids": shared_ids, "cache": cache}
    return _prepared(student, args, encoder, processing_class, **parts)


def _with_own_base(student: nn.Module, args: DistillationArguments, processing_class: ProcessingClass) -> Prepared:
    if not hasattr(student, "disable_adapter"):
        raise ValueError(
            f"alpha is {args.alpha} and teacher_samples_fraction {args.teacher_samples_fraction}, but there is no "
            "teacher: give one, or a teacher_cache, or set both to 0. (A student with a LoRA adapter can have its own "
            "base as the teacher.)"
        )
    if args.teacher_samples_fraction > 0 or args.is_universal:
        raise ValueError(
            "the teacher is the student's own base, which has the student's tokenizer and answers as it does: leave "
            "teacher_samples_fraction at 0 and take another divergence than 'universal'"
        )
    signal = OwnBaseSignal(teacher=SelfTeacher(student), choice=_choice(args, None))
    return _prepared(student, args, _encoder(student, args, processing_class, None), processing_class, signal=signal)


def _prepared(
    student: nn.Module,
    args: DistillationArguments,
    encoder: RowEncoder,
    processing_class: ProcessingClass,
    teacher_reader: ImageTextReader | None = None,
    **parts: Any,
) -> Prepared:
    processor = processor_of(processing_class)
    reader = None
    if processor is not None:
        source_reader = ImageTextReader(processor=processor)
        reader = RowReader(student=source_reader, teacher=teacher_reader, check_length=encoder.check_teacher_length)
    collator = DataCollatorForDistillation(
        encoder.tokenizer,
        pad_to_multiple_of=args.pad_to_multiple_of,
        teacher_pad_token_id=_pad_token_id(encoder.teacher_tokenizer),
        read_row=reader,
    )
    prepared = Prepared(args=args, encoder=encoder, collator=collator, **parts)
    return replace(prepared, sampler=_sampler(student, prepared, processing_class)) if args.has_samples else prepared


def _loaded(teacher: Any, args: DistillationArguments, processing_class: ProcessingClass | None) -> Teacher:
    if isinstance(teacher, Teacher):
        return teacher
    return load_teacher(
        teacher,
        tokenizer=processing_class,
        init_kwargs=args.teacher_options(),
        adapters=args.teacher_adapters,
        merge_adapter=args.merge_teacher_adapter,
    )


def _encoder(
    student: nn.Module,
    args: DistillationArguments,
    processing_class: ProcessingClass,
    teacher_processing_class: ProcessingClass | None,
) -> RowEncoder:
    processor = processor_of(processing_class)
    if processor is not None and not reads_images(language_model(student)):
        # of a model that reads texts alone, or reads images elsewhere than in its encoder
        processor = None
    asked = processing_class if teacher_processing_class is None else teacher_processing_class
    return RowEncoder(
        tokenizer=tokenizer_of(processing_class),
        teacher_tokenizer=tokenizer_of(asked),
        image_token=optional_image_token(processor),
        teacher_processor=processor_of(asked),
        asks_teacher=teacher_processing_class is not None,
        decoder_start_token_id=language_model(student).generation_config.decoder_start_token_id,
        max_source_length=args.max_source_length,
        max_target_length=args.max_target_length,
        source_truncation=args.source_truncation,  # type: ignore[arg-type]
        source_template=args.source_template,
        teacher_template=args.teacher_template,
    )


def _sampler(student: nn.Module, prepared: Prepared, processing_class: ProcessingClass) -> TargetSampler:
    args, teacher = prepared.args, prepared.teacher
    placeholders = placeholder_ids(processing_class)
    teacher_placeholders = () if teacher is None else placeholder_ids(teacher.processing_class)
    if not args.is_universal:
        # what one samples the other reads
        placeholders = teacher_placeholders = (*placeholders, *teacher_placeholders)
    sampling = replace(args.sampling(), shared_ids=prepared.shared_ids, suppressed_ids=placeholders)
    ends = language_model(student).generation_config.eos_token_id
    sampler = TargetSampler(
        on_policy_fraction=args.on_policy_fraction,
        teacher_samples_fraction=args.teacher_samples_fraction,
        sampling=sampling,
        teacher_sampling=replace(sampling, suppressed_ids=teacher_placeholders),
        seed=args.seed,
        eos_token_ids=_as_list(prepared.encoder.tokenizer.eos_token_id if ends is None else ends),
    )
    if teacher is None:
        return sampler
    end = end_of_answer(teacher.processing_class, language_model(teacher.model).generation_config.eos_token_id)[0]
    retokenizer = Retokenizer(prepared.encoder, end) if args.is_universal else None
    own = _as_list(language_model(teacher.model).generation_config.eos_token_id)
    return replace(
        sampler,
        teacher=teacher,
        teacher_eos_token_ids=[end, *(other for other in own if other != end)],
        retokenizer=retokenizer,
    )


def _shared_ids(
    teacher_tokenizer: PreTrainedTokenizerBase,
    tokenizer: PreTrainedTokenizerBase,
    teacher: PreTrainedModel,
    student: PreTrainedModel,
) -> int:
    # a tokenizer may have tokens that no embedding was made for
    sizes = [model.get_output_embeddings().weight.shape[0] for model in (teacher, student)]
    return min(count_shared_ids(teacher_tokenizer, tokenizer), *sizes)


def _choice(args: DistillationArguments, shared_ids: int | None) -> TopKChoice | None:
    if args.top_k is None:
        return None
    return TopKChoice(k=args.top_k, temperature=args.temperature, shared_ids=shared_ids, chunk_size=args.chunk_size)


def _longest(model: PreTrainedModel) -> int | None:
    config = model.config.get_text_config(decoder=True)
    return config.max_position_embeddings if hasattr(config, "max_position_embeddings") else None


def _pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    # padding is told by masks: any id will do
    return 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def _as_list(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)


def _timed(signal: Signal, stopwatch: Stopwatch) -> Signal:
    def ask(batch: Batch) -> Any:
        with stopwatch.part("teacher"):
            return signal(batch)

    return ask
