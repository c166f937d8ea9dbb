"""The columns of rows: of texts, and of what is made of them before and when a batch is made."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from datasets import Features

TEXT_COLUMNS = ("source", "target", "teacher_prompt", "messages", "teacher")
ENCODED_COLUMNS = ("input_ids", "labels", "teacher_prompt_ids")
# in the place of ids, where rows have images
SOURCE_TEXT, TEACHER_PROMPT_TEXT = "source_text", "teacher_prompt_text"
# how many images a row has, while it is encoded
NUM_IMAGES = "_num_images"
# what a processor makes of a row's images, for the student and for the teacher
STUDENT_IMAGES, TEACHER_IMAGES = "student_images", "teacher_images"
# what there is of each token of a teacher's prompt beside its id: in front of the name of the model's argument
PROMPT = "teacher_prompt_"


def is_encoded(column_names: Collection[str]) -> bool:
    """Returns whether rows with these columns have ids already."""
    names = set(column_names)
    return (
        "labels" in names
        and bool({"input_ids", SOURCE_TEXT} & names)
        and bool({"teacher_prompt_ids", TEACHER_PROMPT_TEXT} & names)
    )


def encoded_features(before: "Features", removed: Sequence[str], made: Sequence[str]) -> "Features":
    """Returns the types of columns: told and not inferred, because the first rows of a column may all be empty."""
    from datasets import Features, List, Value

    types = dict.fromkeys(made, List(Value("int32"))) | {
        "aligned": List(List(Value("int32"))),
        "teacher_index": Value("int32"),
        SOURCE_TEXT: Value("string"),
        TEACHER_PROMPT_TEXT: Value("string"),
    }
    kept = {name: kind for name, kind in before.items() if name not in removed}
    return Features(kept | {name: types[name] for name in made})
