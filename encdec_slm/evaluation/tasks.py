"""The tasks that models are compared on, as records: where the rows are, what is asked, what is right, what is scored.

`{name}` in a text stands for a column of a row, and `{image}` for where an image is. Local files have the columns of
the data set, or `source` and `target` (and `images`), as this package's trainings read them.
"""

from dataclasses import dataclass
from string import Formatter


SOURCE, TARGET, IMAGES, IMAGE = "source", "target", "images", "image"


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task.

    Attributes:
        title: What people call the data set.
        type: Of the task, as the Hub names it.
        prompt: What a model reads, with the columns of a row.
        copied: The column that an answer would be copied from; none where copying it is no answer.
        references: The column of the right answer or answers, `a.b` for what is inside; or a text with columns, in
            which lists of tokens are joined by blanks.
        metrics: Names of `encdec_slm.evaluation.metrics.METRICS`.
        dataset: Its id on the Hub; none if there are only local files.
        config: Of the data set.
        split: That is scored by default.
        revision: Of the data set on the Hub.
        images: The column of the image or images.
        instruction: What a decoder-only model is told, with the prompt as `{source}`.
        no_answer: What is said where the data set has no answer, in words; none if each row has one.
        max_new_tokens: Longest answer, unless told otherwise.

    Raises:
        ValueError: If the instruction lacks the prompt.
    """

    title: str
    type: str
    prompt: str
    references: str
    metrics: tuple[str, ...]
    copied: str | None = None
    dataset: str | None = None
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    images: str | None = None
    instruction: str = "{source}"
    no_answer: str | None = None
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        refuse_without_source("instruction", self.instruction)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are needed."""
        names = [*fields_of(self.prompt), *(fields_of(self.references) or (self.references.partition(".")[0],))]
        return tuple(dict.fromkeys([*names, *([self.images] if self.images else [])]))


def fields_of(text: str) -> tuple[str, ...]:
    """Returns the columns that a text names.

    >>> fields_of("{question} about {image}: {context}")
    ('question', 'context')
    """
    names = [name for _, name, _, _ in Formatter().parse(text) if name is not None]
    return tuple(dict.fromkeys(name for name in names if name != IMAGE))


def refuse_without_source(kind: str, text: str) -> None:
    """Refuses a text around a prompt that has no place for the prompt.

    Args:
        kind: What the text is, for the message.
        text: Should have `{source}`.

    Raises:
        ValueError: If it has not.
    """
    if f"{{{SOURCE}}}" not in text:
        raise ValueError(f"the {kind} {text!r} has no {{{SOURCE}}}, where the prompt would be: write it there")


# as the code published with the paper has them
CONTEXT_PROMPT = (
    "Answer the following question based only on the context.\n###Question\n{question}\n###Context\n{context}\n"
    "###Answer\n"
)
IMAGE_PROMPT = (
    "Answer the following question based only on the context.\n###Question: \n{question}\n###Context: {image}"
)
# decoder-only models answer in sentences if nobody tells them not to
SHORT = "{source}\nAnswer the question using a single word or phrase."

TASKS = {
    "squad_v2": Task(
        title="SQuAD 2.0",
        type="question-answering",
        dataset="rajpurkar/squad_v2",
        split="validation",
        prompt=CONTEXT_PROMPT,
        references="answers.text",
        no_answer="unanswerable",
        instruction="{source}\nAnswer in the words of the context, or with 'unanswerable'.",
        metrics=("squad_v2", "rouge"),
        max_new_tokens=32,
    ),
    "xsum": Task(
        title="XSum",
        type="summarization",
        dataset="EdinburghNLP/xsum",
        # the main branch is a script, which `datasets` does not run any more
        revision="refs/convert/parquet",
        prompt="{document}",
        copied="document",
        references="summary",
        instruction="Summarize the following article in one sentence.\n\n{source}",
        metrics=("rouge",),
    ),
    "codexglue_java_cs": Task(
        title="CodeXGLUE, Java to C#",
        type="translation",
        dataset="google/code_x_glue_cc_code_to_code_trans",
        prompt="{java}",
        copied="java",
        references="cs",
        instruction="Translate this Java method to C#. Answer with the code alone, on one line.\n\n{source}",
        metrics=("code_bleu", "exact_match", "rouge"),
        max_new_tokens=256,
    ),
    "codexglue_code_to_text": Task(
        title="CodeXGLUE, code to text",
        type="summarization",
        dataset="google/code_x_glue_ct_code_to_text",
        config="python",
        prompt="{code_tokens}",
        copied="code_tokens",
        references="{docstring_tokens}",
        instruction="Say in one sentence what this function does.\n\n{source}",
        metrics=("code_to_text_bleu", "rouge"),
    ),
    # the paper does not say which essays it took; these have the columns prompt, essay, evaluation and band
    "ielts": Task(
        title="IELTS, writing task 2",
        type="text-generation",
        dataset="chillies/IELTS-writing-task-2-evaluation",
        prompt="{prompt}",
        references="essay",
        instruction="Write an essay of at least 250 words.\n\n{source}",
        metrics=("rouge",),
        max_new_tokens=512,
    ),
    "vqav2": Task(
        title="VQAv2",
        type="visual-question-answering",
        dataset="lmms-lab/VQAv2",
        split="validation",
        prompt=IMAGE_PROMPT,
        references="answers.answer",
        images="image",
        instruction=SHORT,
        metrics=("vqa_accuracy",),
        max_new_tokens=16,
    ),
    "textvqa": Task(
        title="TextVQA",
        type="visual-question-answering",
        dataset="lmms-lab/textvqa",
        split="validation",
        prompt=IMAGE_PROMPT,
        references="answers",
        images="image",
        instruction=SHORT,
        metrics=("textvqa_accuracy",),
        max_new_tokens=16,
    ),
    "chartqa": Task(
        title="ChartQA",
        type="visual-question-answering",
        dataset="HuggingFaceM4/ChartQA",
        prompt=IMAGE_PROMPT.replace("{question}", "{query}"),
        references="label",
        images="image",
        instruction=SHORT,
        metrics=("relaxed_accuracy",),
        max_new_tokens=16,
    ),
    # your own rows
    "text": Task(
        title="text",
        type="text2text-generation",
        prompt="{source}",
        copied=SOURCE,
        references=TARGET,
        metrics=("exact_match", "rouge"),
    ),
    "images": Task(
        title="images",
        type="image-text-to-text",
        prompt="{image}\n{source}",
        references=TARGET,
        images=IMAGES,
        metrics=("exact_match",),
    ),
}


def find_task(name: str) -> Task:
    """Returns the task of a name.

    Raises:
        ValueError: If there is none.
    """
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}: take one of {', '.join(TASKS)}")
    return TASKS[name]
