"""Rows of text as rows of token ids: what the student reads, what it is to write, and what the teacher reads.

A row has a `source` and a `target`. The teacher reads the same source text as the student, in its own prompt, unless
the row has a prompt for it: a text `teacher_prompt`, or `messages` of a conversation. Where several adapters of one
teacher teach, a row tells by its `teacher` which one reads it.

Where rows have `images`, how many tokens an image takes is only known when it is opened, which is done when a batch is
made. Such rows keep the texts that are to be read, with a token where each image is; see `RowReader`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import logging

from encdec_slm.distillation.columns import (
    ENCODED_COLUMNS,
    NUM_IMAGES,
    SOURCE_TEXT,
    TEACHER_PROMPT_TEXT,
    TEXT_COLUMNS,
    encoded_features,
)
from encdec_slm.distillation.image_text import optional_image_token, refuse_image_tokens, with_image_tokens
from encdec_slm.distillation.images import IMAGES, count_images, image_counts
from encdec_slm.distillation.prompts import Message
from encdec_slm.distillation.teacher_prompts import (
    SOURCE,
    PromptMaker,
    fill,
    filled_text,
    message_text,
    split_conversation,
)
from encdec_slm.distillation.text_tokens import FramedText, Truncation, cut_inside, cut_text, frame_text, token_spans


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    Rows = TypeVar("Rows", Dataset, IterableDataset)

logger = logging.get_logger(__name__)

# student ids, teacher ids and both tokenizers -> positions in both that follow the same text
Align = Callable[[list[int], list[int], PreTrainedTokenizerBase, PreTrainedTokenizerBase], Sequence[tuple[int, int]]]


@dataclass(frozen=True, eq=False, kw_only=True)
class RowEncoder:
    """Turns rows of text into token ids; a function for `map(..., batched=True, with_indices=True)` of `datasets`.

    The student's source and target are framed as its tokenizer frames them (`tokenizer(source)` and
    `tokenizer(text_target=target)`). A target ends with the end-of-sequence token unless it is cut. A token that the
    tokenizer puts in front of it is left out where the model starts its decoder with the same one.

    The teacher's prompt is, whichever is there first: the conversation in `messages`, without an answer at its end;
    the text in `teacher_prompt`; `teacher_template`; the chat template of its tokenizer, with the source as the
    user's message; the source and a line break. It never has a part of the target, whose ids follow it as they are.

    Of a source that is too long the text is cut, and teacher and student read what is left of it. A prompt of the
    row's own is read as it is. A row with `messages` needs no `target` if the last message is the assistant's, and no
    `source`: it is the contents of the other messages then, with blank lines between them.

    Of images, each side has its own token in its text, one for each image. A source may have the student's token where
    the images are; otherwise they come first. It is translated for the teacher: into parts of the user's message if
    there is a chat template. The tokens of images come on top of `max_source_length`, and none is ever cut.

    Args:
        tokenizer: The student's.
        teacher_tokenizer: The teacher's; it may be the same.
        image_token: What stands for an image in a source; None if the student reads no images.
        teacher_processor: The teacher's, if it reads images.
        asks_teacher: Whether the teacher's prompt is read at all.
        decoder_start_token_id: The student's.
        max_source_length: Most tokens of what the student reads, template and special tokens included.
        max_target_length: Most tokens of a target, special tokens included. A target that is cut has no end.
        source_truncation: What of a source that is too long is left out.
        source_template: What the student reads, with "{source}" where the source is. It is never cut.
        teacher_template: The same for the teacher.
        teacher_max_length: Most tokens that the teacher reads, prompt and target together.
        sampled_length: Most tokens of the targets that are sampled for a row during the training, which the teacher
            has to have room for too.
        adapter_indices: The teacher's adapters by the names that rows give in `teacher`.
        align: For a teacher with another tokenizer: finds the positions that follow the same text. Rows get
            `teacher_labels` and `aligned` then.
        teacher_eos_token_id: What ends the teacher's answers, where it has another tokenizer; its tokenizer's
            end-of-sequence token if not given.

    Raises:
        ValueError: If lengths, templates or tokens are missing or make no sense.
    """

    tokenizer: PreTrainedTokenizerBase
    teacher_tokenizer: PreTrainedTokenizerBase
    image_token: str | None = None
    teacher_processor: ProcessorMixin | None = None
    asks_teacher: bool = True
    decoder_start_token_id: int | None = None
    max_source_length: int | None = None
    max_target_length: int | None = None
    source_truncation: Truncation = "end"
    source_template: str | None = None
    teacher_template: str | None = None
    teacher_max_length: int | None = None
    sampled_length: int = 0
    adapter_indices: Mapping[str, int] | None = None
    align: Align | None = None
    teacher_eos_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.source_truncation not in get_args(Truncation):
            raise ValueError(f"source_truncation is {self.source_truncation!r}, use one of {get_args(Truncation)}")
        for name in ("max_source_length", "max_target_length", "teacher_max_length"):
            length = getattr(self, name)
            if length is not None and length < 1:
                raise ValueError(f"{name} is {length}, but it is at least 1, or None")
        for name, token in zip(("source_template", "teacher_template"), self._image_tokens, strict=True):
            template = getattr(self, name)
            if template is not None and template.count(SOURCE) != 1:
                raise ValueError(f"{name} is {template!r}, but it has {SOURCE} once, where the source goes")
            refuse_image_tokens(name, template or "", token)
        if self.tokenizer.eos_token_id is None:
            raise ValueError("the student's tokenizer has no eos_token to end targets with: set tokenizer.eos_token")
        if self.align is not None and self._teacher_end is None:
            raise ValueError("the teacher's tokenizer has no eos_token to end targets with: give teacher_eos_token_id")

    def __call__(
        self, batch: Mapping[str, Sequence[Any]], indices: Sequence[int] | None = None
    ) -> dict[str, list[Any]]:
        """Returns the encoded columns of a batch of text columns; other columns are ignored.

        Args:
            batch: Columns by name.
            indices: The numbers of the rows, for messages; counted from 0 if not given.

        Raises:
            ValueError: If columns are missing, or a row cannot be encoded: it tells the row's number.
        """
        self.check_columns(list(batch))
        columns = {name: batch[name] for name in (*TEXT_COLUMNS, NUM_IMAGES) if name in batch}
        # of a stream
        if IMAGES in batch:
            columns[NUM_IMAGES] = list(map(count_images, batch[IMAGES]))
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        encoded: dict[str, list[Any]] = {name: [] for name in self.encoded_columns(columns)}
        for index, row in zip(range(len(rows)) if indices is None else indices, rows, strict=True):
            try:
                for name, value in self.encode(row).items():
                    encoded[name].append(value)
            except ValueError as error:
                raise ValueError(f"row {index}: {error}") from error
        return encoded

    def encoded_columns(self, column_names: Collection[str]) -> list[str]:
        """Returns the columns that are made of columns of text."""
        read: tuple[str, ...] = ENCODED_COLUMNS
        if {IMAGES, NUM_IMAGES} & set(column_names):
            prompt = TEACHER_PROMPT_TEXT if self._reads_prompt_late else "teacher_prompt_ids"
            read = (SOURCE_TEXT, "labels", prompt)
        aligned = () if self.align is None else ("teacher_labels", "aligned")
        return [*read, *aligned, *(("teacher_index",) if "teacher" in column_names else ())]

    @property
    def _image_tokens(self) -> tuple[str | None, str | None]:
        return self.image_token, optional_image_token(self.teacher_processor)

    @property
    def _reads_prompt_late(self) -> bool:
        return self.asks_teacher and self.teacher_processor is not None

    def check_columns(self, column_names: Collection[str]) -> None:
        """Refuses columns that cannot be encoded.

        Raises:
            ValueError: If columns are missing or contradict each other.
        """
        missing = {"source", "target"} - set(column_names)
        if missing and "messages" not in column_names:
            raise ValueError(
                f"the dataset has no column {' and no column '.join(sorted(missing))}, it has {sorted(column_names)}: "
                "rename columns to source and target, or give messages"
            )
        if {"teacher_prompt", "messages"} <= set(column_names):
            raise ValueError(
                "the dataset has teacher_prompt and messages, but the teacher reads one of them: remove a column"
            )
        if "teacher" in column_names and self.adapter_indices is None:
            raise ValueError(
                "the dataset has a column teacher, but the teacher has no named adapters: give them, or remove the "
                "column"
            )
        if IMAGES in column_names and self.image_token is None:
            raise ValueError(
                "the dataset has images, but the student reads none: take a model whose encoder reads images, and "
                "pass its processor, not a tokenizer, as processing_class; or remove the column images"
            )

    def encode(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a row's ids by the names of their columns.

        Raises:
            ValueError: If the row has no source or target, or one that is empty, its messages cannot be shown, or the
                teacher cannot read it or is unknown.
        """
        messages, answer = split_conversation(row["messages"]) if "messages" in row else (None, None)
        contents = "\n\n".join(message_text(message, self.image_token or "") for message in messages or ())
        source, target = (
            filled_text(name, row.get(name, default)) for name, default in (("source", contents), ("target", answer))
        )
        for token in self._image_tokens:
            refuse_image_tokens("its target", target, token)
        shown = self._cut_source(source)
        if shown != source and ("teacher_prompt" in row or messages is not None):
            logger.warning_once(
                "Sources are cut to max_source_length, but the teacher has prompts of its own, which are read whole: "
                "it may know more than the student"
            )
        # with images, the prompt's length is not known yet
        encoded = self._with_texts(row, messages, shown) if NUM_IMAGES in row else self._with_ids(row, messages, shown)
        labels, is_cut = self._labels(target)
        encoded["labels"] = teacher_labels = labels
        if self.align is not None:
            teacher_labels = self._teacher_labels(target, is_cut=is_cut)
            aligned = self.align(labels, teacher_labels, self.tokenizer, self.teacher_tokenizer)
            encoded |= {"teacher_labels": teacher_labels, "aligned": [list(pair) for pair in aligned]}
        if "teacher_prompt_ids" in encoded:
            self.check_teacher_length(len(encoded["teacher_prompt_ids"]), len(teacher_labels))
        return encoded | ({"teacher_index": self._teacher_index(row["teacher"])} if "teacher" in row else {})

    def _with_ids(self, row: Mapping[str, Any], messages: Sequence[Message] | None, source: str) -> dict[str, Any]:
        if self.image_token is not None and self.image_token in source:
            raise ValueError(
                f"its source has {source.count(self.image_token)} image tokens {self.image_token!r}, but the dataset "
                "has no column images: add it, or take the tokens out"
            )
        return {
            "input_ids": frame_text(self.tokenizer, fill(self.source_template, source)).ids,
            "teacher_prompt_ids": self._prompts.ids(row, messages, source),
        }

    def _with_texts(self, row: Mapping[str, Any], messages: Sequence[Message] | None, source: str) -> dict[str, Any]:
        """Returns the texts of a row with images, which a `RowReader` reads."""
        token, num_images = str(self.image_token), row[NUM_IMAGES]
        source = with_image_tokens(source, token, num_images, what="source")
        encoded = {SOURCE_TEXT: fill(self.source_template, source)}
        if self._reads_prompt_late:
            prompt_source = source.replace(token, self._prompts.image_token)
            return encoded | {TEACHER_PROMPT_TEXT: self._prompts.text(row, messages, prompt_source, num_images)}
        if not self.asks_teacher:
            row, messages, num_images = {}, None, 0
        return encoded | {"teacher_prompt_ids": self._prompts.ids(row, messages, source, num_images)}

    @property
    def _prompts(self) -> PromptMaker:
        processor = self.teacher_processor if self.asks_teacher else None
        return PromptMaker(tokenizer=self.teacher_tokenizer, processor=processor, template=self.teacher_template)

    def _cut_source(self, source: str) -> str:
        """Returns as much of a source as the student reads; the template around it is always whole."""
        if self.max_source_length is None:
            return source
        before, after = (self.source_template or SOURCE).split(SOURCE)
        shown = cut_inside(
            source,
            before=before,
            after=after,
            tokenizer=self.tokenizer,
            max_tokens=self.max_source_length,
            truncation=self.source_truncation,
        )
        if self.image_token is not None and shown.count(self.image_token) < source.count(self.image_token):
            raise ValueError(
                f"max_source_length is {self.max_source_length}, which would cut off image tokens "
                f"{self.image_token!r}: raise it, or write the images where nothing is cut "
                f"(source_truncation={self.source_truncation!r}), or leave the tokens out, and the images come first"
            )
        if not shown:
            raise ValueError(
                f"max_source_length is {self.max_source_length}, which has no room for any of the source beside the "
                "source_template and special tokens: raise it"
            )
        return shown

    def target_ids(self, target: str) -> list[int]:
        """Returns the labels of a whole target; the last one is the end-of-sequence token."""
        return self._framed_target(target).ids

    def _framed_target(self, target: str) -> FramedText:
        framed = frame_text(self.tokenizer, target, target=True)
        ids, before, after = framed.ids, framed.before, framed.after
        if before and ids[0] == self.decoder_start_token_id:
            ids, before = ids[1:], before - 1
        if ids[-1:] != [self.tokenizer.eos_token_id]:
            ids, after = [*ids, self.tokenizer.eos_token_id], after + 1
        return FramedText(ids, before=before, after=after)

    def _labels(self, target: str) -> tuple[list[int], bool]:
        """Returns the student's labels, and whether they are not the whole target."""
        framed = self._framed_target(target)
        if framed.is_empty:
            raise ValueError(
                f"the target {target!r} has no tokens but special ones, and nothing can be learned from it: remove "
                "such rows"
            )
        most = self.max_target_length
        return framed.ids[:most], most is not None and len(framed.ids) > most

    def _teacher_labels(self, target: str, *, is_cut: bool) -> list[int]:
        """Returns the teacher's ids of as much of the target as there are labels of."""
        if not is_cut:
            ids = self.teacher_tokenizer(target, add_special_tokens=False, verbose=False)["input_ids"]
            return [*ids, self._teacher_end]
        shown = cut_text(
            target,
            max_tokens=self.max_target_length or 0,
            # a cut target has no end
            count=lambda text: len(self.target_ids(text)) - 1,
            spans=lambda: token_spans(self.tokenizer, target, target=True),
        )
        ids = self.teacher_tokenizer(shown, add_special_tokens=False, verbose=False)["input_ids"]
        if not ids:
            raise ValueError(
                f"max_target_length is {self.max_target_length}, which leaves nothing of the target {target!r}: "
                "raise it"
            )
        return list(ids)

    @property
    def _teacher_end(self) -> int | None:
        end = self.teacher_eos_token_id
        return self.teacher_tokenizer.eos_token_id if end is None else end

    def _teacher_index(self, name: Any) -> int:
        indices = self.adapter_indices or {}
        if name not in indices:
            raise ValueError(f"its teacher is {name!r}, but the teacher has the adapters {sorted(indices)}")
        return indices[name]

    def check_teacher_length(self, prompt: int, target: int) -> None:
        """Raises a ValueError if the teacher reads fewer tokens than a prompt and a target, or a sampled one, have."""
        target = max(target, self.sampled_length)
        if self.teacher_max_length is not None and prompt + target > self.teacher_max_length:
            raise ValueError(
                f"the teacher would read a prompt of {prompt} and a target of {target} tokens, but it reads at most "
                f"{self.teacher_max_length}: lower max_source_length or max_target_length, or shorten the row's own "
                "prompt"
            )


def encode_rows(
    dataset: "Rows", encoder: RowEncoder, *, batch_size: int = 1000, num_proc: int | None = None
) -> "Rows":
    """Returns a dataset of the same kind with ids instead of texts; columns that are no texts of ours stay.

    Args:
        dataset: Rows of text, map-style or streaming.
        encoder: Turns them into ids.
        batch_size: Rows that are encoded together.
        num_proc: Processes; only for a map-style dataset.

    Raises:
        ValueError: If columns are missing, contradict each other or have the names of encoded ones, or a row cannot
            be encoded.
    """
    from datasets import Dataset, concatenate_datasets

    # a stream need not know its columns before it is read
    names = dataset.column_names or list(next(iter(dataset), {}))
    encoder.check_columns(names)
    made = encoder.encoded_columns(names)
    if set(made) & set(names):
        raise ValueError(
            f"the dataset has texts, but also the columns {sorted(set(made) & set(names))}, which are made of them: "
            "remove or rename these"
        )
    texts = [name for name in TEXT_COLUMNS if name in names]
    beside = None
    if isinstance(dataset, Dataset) and IMAGES in names:
        # what is no text stays where it is: images are neither decoded nor copied
        beside = dataset.select_columns([name for name in names if name not in texts])
        dataset = dataset.select_columns(texts).add_column(NUM_IMAGES, image_counts(dataset))
        texts.append(NUM_IMAGES)
    elif IMAGES in names:
        # of a stream, all that are encoded together are decoded
        batch_size = 1
    options: dict[str, Any] = {"batch_size": batch_size, "remove_columns": texts}
    if dataset.features is not None:
        options["features"] = encoded_features(dataset.features, texts, made)
    if isinstance(dataset, Dataset):
        options |= {"num_proc": num_proc, "desc": "Encoding rows"}
    encoded = dataset.map(encoder, batched=True, with_indices=True, **options)
    return encoded if beside is None else concatenate_datasets([encoded, beside], axis=1)
