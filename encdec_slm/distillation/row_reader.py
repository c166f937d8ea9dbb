"""Rows with images, read when a batch is made: no pixel is kept for longer than a step needs it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from encdec_slm.distillation.columns import (
    PROMPT,
    SOURCE_TEXT,
    STUDENT_IMAGES,
    TEACHER_IMAGES,
    TEACHER_PROMPT_TEXT,
)
from encdec_slm.distillation.image_text import ImageTextReader
from encdec_slm.distillation.images import IMAGES, open_images


@dataclass(frozen=True, eq=False, kw_only=True)
class RowReader:
    """Opens the images of a row, and reads its texts with them.

    Args:
        student: Reads the source.
        teacher: Reads the teacher's prompt; None if nobody reads a prompt with images.
        check_length: Refuses a prompt and a target of so many tokens that are too long for the teacher.
    """

    student: ImageTextReader
    teacher: ImageTextReader | None
    check_length: Callable[[int, int], None]

    def __call__(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns a row with ids and tensors of images; one that has ids already stays as it is.

        Args:
            row: Encoded, see `encode_rows`.

        Raises:
            ValueError: If an image cannot be read, there are more or fewer than a text has places for, or the
                teacher would read too much.
        """
        if SOURCE_TEXT not in row:
            return row
        images = open_images(row.get(IMAGES))
        source = self.student(row[SOURCE_TEXT], images)
        read = {**row, "input_ids": source.ids, STUDENT_IMAGES: source.images}
        if self.teacher is None or TEACHER_PROMPT_TEXT not in row:
            return read
        prompt = self.teacher(row[TEACHER_PROMPT_TEXT], images)
        self.check_length(len(prompt.ids), len(row.get("teacher_labels", row["labels"])))
        types = {PROMPT + name: value for name, value in prompt.token_types.items()}
        return {**read, "teacher_prompt_ids": prompt.ids, TEACHER_IMAGES: prompt.images, **types}
