"""What a decoder-only teacher reads before its answer, and which token ends the answer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from transformers import PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import logging

from encdec_slm.distillation.image_text import processor_of, tokenizer_of
from encdec_slm.distillation.text_tokens import frame_text


logger = logging.get_logger(__name__)

# a text that no chat template writes itself
ANSWER = "answer-of-the-assistant"
Message = Mapping[str, Any]


def text_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Returns the ids of a prompt: framed by the tokenizer in front, and open at its end.

    Raises:
        ValueError: If the text has none.
    """
    framed = frame_text(tokenizer, text)
    # of special tokens alone nobody knows which are in front and which are behind
    prompt = [] if framed.is_empty else framed.ids[: len(framed.ids) - framed.after]
    return _checked(prompt, tokenizer)


def chat_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Returns the ids of a conversation and of what announces the assistant's answer.

    Raises:
        ValueError: If there is no chat template, or it cannot show these messages.
    """
    with _showing(messages, tokenizer.chat_template):
        ids = tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=True, tokenize=True, return_dict=False
        )
    return _checked(list(cast(list[int], ids)), tokenizer)


def chat_text(processor: ProcessorMixin, messages: Sequence[Message]) -> str:
    """Returns the text of a conversation with images and of what announces the assistant's answer.

    Args:
        processor: Of the teacher.
        messages: The content of each is a list of parts of the types `text` and `image`.

    Raises:
        ValueError: If there is no chat template, or it cannot show these messages.
    """
    template = chat_template_of(processor)
    with _showing(messages, template):
        return str(
            processor.apply_chat_template(
                [dict(message) for message in messages], chat_template=template, add_generation_prompt=True
            )
        )


def chat_template_of(processing_class: PreTrainedTokenizerBase | ProcessorMixin) -> str | None:
    """Returns the chat template of a tokenizer, or of a processor or else its tokenizer; None if there is none."""
    templates = (processing_class.chat_template, tokenizer_of(processing_class).chat_template)
    return next((template for template in templates if template is not None), None)  # type: ignore[return-value]


@contextmanager
def _showing(messages: Sequence[Message], chat_template: Any) -> Iterator[None]:
    """Says of a chat template what is wrong with it or with the messages."""
    from jinja2 import TemplateError

    if chat_template is None:
        raise ValueError(
            "there are messages, but the teacher's tokenizer has no chat template: set its chat_template, or give "
            "the prompt as text in a column teacher_prompt"
        )
    try:
        yield
    except (TemplateError, TypeError) as error:
        roles = [message["role"] for message in messages]
        raise ValueError(
            f"the chat template of the teacher's tokenizer cannot show messages of the roles {roles}: {error}. Change "
            "the messages or its chat_template, or give the prompt as text in a column teacher_prompt"
        ) from error


def _checked(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if not ids:
        raise ValueError(
            "the teacher's prompt has no tokens, but the first token of the target is predicted from its last one: "
            "give the teacher something to read"
        )
    # some templates write as text what the tokenizer adds as well
    while ids[:2] == [tokenizer.bos_token_id] * 2:
        ids = ids[1:]
    return ids


def end_of_answer(
    processing_class: PreTrainedTokenizerBase | ProcessorMixin, eos_token_ids: int | Sequence[int] | None = None
) -> tuple[int, str]:
    """Returns the token by which a decoder-only model ends an answer, and what tells it.

    It is the special token that the chat template puts behind an assistant's message. Of several, it is the first one
    at which generation stops. Without one, it is the tokenizer's end-of-sequence token.

    Args:
        processing_class: The model's tokenizer or processor.
        eos_token_ids: The ids at which generation stops (`generation_config.eos_token_id`).

    Raises:
        ValueError: If neither is there.
    """
    stops = [eos_token_ids] if isinstance(eos_token_ids, int) else eos_token_ids or ()
    tokenizer = tokenizer_of(processing_class)
    ends = _ends_of_turn(processing_class)
    if ends:
        return next((end for end in ends if end in stops), ends[0]), "chat template"
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "no token ends the teacher's answers: no chat template shows one behind a message, and its tokenizer has "
            "no eos_token. Set tokenizer.eos_token"
        )
    return tokenizer.eos_token_id, "tokenizer"


def end_exchange(
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_processing_class: PreTrainedTokenizerBase | ProcessorMixin,
    *,
    teacher_eos_token_ids: int | Sequence[int] | None = None,
) -> tuple[int, int] | None:
    """Returns by which ids student and teacher end an answer, where both have one vocabulary.

    Args:
        student_tokenizer: The end of an answer is its end-of-sequence token.
        teacher_processing_class: See `end_of_answer`.
        teacher_eos_token_ids: The ids at which the teacher's generation stops.

    Returns:
        The student's and the teacher's id; None if it is the same one.

    Raises:
        ValueError: If one of them has none.
    """
    ours = student_tokenizer.eos_token_id
    if ours is None:
        raise ValueError("the student's tokenizer has no eos_token to end an answer with: set tokenizer.eos_token")
    theirs, origin = end_of_answer(teacher_processing_class, teacher_eos_token_ids)
    token = tokenizer_of(teacher_processing_class).convert_ids_to_tokens(theirs)
    shown = f"{token!r} ({theirs}), as its {origin} tells"
    if ours == theirs:
        logger.info(f"The teacher ends an answer by {shown}, and so does the student")
        return None
    logger.info(
        f"The teacher ends an answer by {shown}, but the student by {student_tokenizer.eos_token!r} ({ours}): they "
        "are exchanged in what the teacher reads and says"
    )
    return ours, theirs


def _ends_of_turn(processing_class: Any) -> list[int]:
    """Returns the special tokens that the chat template puts behind an assistant's message, in order."""
    template, tokenizer = chat_template_of(processing_class), tokenizer_of(processing_class)
    if template is None:
        return []
    from jinja2 import TemplateError

    has_parts = processor_of(processing_class) is not None
    messages = [
        {"role": role, "content": [{"type": "text", "text": text}] if has_parts else text}
        for role, text in (("user", "question"), ("assistant", ANSWER))
    ]
    try:
        conversation = str(processing_class.apply_chat_template(messages, chat_template=template, tokenize=False))
    except (TemplateError, TypeError) as error:
        logger.info(f"The chat template cannot show an answer, so that its end is not known from it: {error}")
        return []
    _, answer, behind = conversation.rpartition(ANSWER)
    if not answer:
        return []
    specials = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    specials |= set(tokenizer.all_special_ids)
    # a line break may be an unknown word, but the end may also be what stands for unknown words (GPT-2)
    specials -= {tokenizer.unk_token_id} - {tokenizer.eos_token_id}
    return [i for i in tokenizer(behind, add_special_tokens=False)["input_ids"] if i in specials]
