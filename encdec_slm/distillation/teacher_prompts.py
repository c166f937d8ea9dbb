"""Which prompt a teacher reads for a row: that of the row, that of a template, or the source as a user's message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase, ProcessorMixin

from encdec_slm.distillation.image_text import image_token, message_parts, with_image_tokens
from encdec_slm.distillation.prompts import Message, chat_prompt, chat_template_of, chat_text, text_prompt


SOURCE = "{source}"


@dataclass(frozen=True, eq=False, kw_only=True)
class PromptMaker:
    """Makes what a teacher reads before the target.

    It is, whichever is there first: the conversation in a row's `messages`, the text in its `teacher_prompt`, the
    template, the chat template with the source as the user's message, the source and a line break.

    Args:
        tokenizer: The teacher's.
        processor: The teacher's, if it reads images.
        template: A text with "{source}" where the source is.
    """

    tokenizer: PreTrainedTokenizerBase
    processor: ProcessorMixin | None = None
    template: str | None = None

    def ids(
        self, row: Mapping[str, Any], messages: Sequence[Message] | None, source: str, num_images: int = 0
    ) -> list[int]:
        """Returns the ids of a prompt without images.

        Args:
            row: It may have a `teacher_prompt`.
            messages: Of a conversation, without its answer; None if the row has none.
            source: As the student reads it.
            num_images: How many images the student sees; the teacher has to be told of them in a prompt of its own.

        Raises:
            ValueError: If there is nothing to read, or messages cannot be shown, or nobody tells of the images.
        """
        if num_images and messages is None and "teacher_prompt" not in row:
            self._needed_processor()
        if self.processor is not None:
            return text_prompt(self.tokenizer, self.text(row, messages, source, 0))
        if messages is not None:
            return chat_prompt(self.tokenizer, [self._as_text(message) for message in messages])
        if "teacher_prompt" in row:
            return text_prompt(self.tokenizer, filled_text("teacher_prompt", row["teacher_prompt"]))
        if self.template is not None:
            return text_prompt(self.tokenizer, fill(self.template, source))
        if self.tokenizer.chat_template is not None:
            return chat_prompt(self.tokenizer, [{"role": "user", "content": source}])
        return text_prompt(self.tokenizer, source + "\n")

    def text(self, row: Mapping[str, Any], messages: Sequence[Message] | None, source: str, num_images: int) -> str:
        """Returns the text of a prompt for the teacher's processor, with its token for each image.

        Args:
            row: It may have a `teacher_prompt`.
            messages: Of a conversation, without its answer; None if the row has none.
            source: With the processor's token for each image.
            num_images: How many images the row has.

        Raises:
            ValueError: If a prompt of the row's own has some tokens or parts for images, but not as many.
        """
        processor = self._needed_processor()
        if messages is not None:
            return chat_text(processor, _with_image_parts(messages, num_images))
        token = image_token(processor)
        if "teacher_prompt" in row:
            prompt = filled_text("teacher_prompt", row["teacher_prompt"])
            return with_image_tokens(prompt, token, num_images, what="teacher_prompt")
        if self.template is not None:
            return fill(self.template, source)
        if chat_template_of(processor) is not None:
            return chat_text(processor, [{"role": "user", "content": message_parts(source, token)}])
        return source + "\n"

    def _as_text(self, message: Message) -> Message:
        if not isinstance(message["content"], str) and any(part["type"] == "image" for part in message["content"]):
            self._needed_processor()
        return {**message, "content": message_text(message)}

    @property
    def image_token(self) -> str:
        """What stands for an image in the teacher's texts."""
        return image_token(self._needed_processor())

    def _needed_processor(self) -> ProcessorMixin:
        if self.processor is None:
            raise ValueError(
                "the row has images, but the teacher reads none, since it has no processor: take a vision-language "
                "model and pass its processor as teacher_processing_class, or give rows a teacher_prompt that says in "
                "words what the teacher is to know of the images"
            )
        return self.processor


def fill(template: str | None, source: str) -> str:
    """Returns a template with the source in its place; the source if there is no template."""
    return source if template is None else template.replace(SOURCE, source)


def filled_text(name: str, value: Any) -> str:
    """Returns a text of a row.

    Raises:
        ValueError: If it is no text, or empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"its {name} is {value!r}, but a {name} is a text that is not empty: remove such rows")
    return value


def split_conversation(messages: Sequence[Message] | None) -> tuple[Sequence[Message], str | None]:
    """Returns the messages that the teacher reads, and the assistant's answer if they end with one.

    Args:
        messages: With a role and a content: a text, or a list of parts of the types `text` and `image`.

    Raises:
        ValueError: If a message has something else, or there is nothing to answer.
    """
    messages = [_cleaned(message) for message in messages or ()]
    answer = message_text(messages[-1]) if messages and messages[-1]["role"] == "assistant" else None
    prompt = messages if answer is None else messages[:-1]
    if not prompt:
        raise ValueError("its messages have nothing that the assistant could answer: remove such rows")
    return prompt, answer


def message_text(message: Message, token: str = "") -> str:
    """Returns the content of a message as one text, with a token where its images are."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(token if part["type"] == "image" else part["text"] for part in content)


def _cleaned(message: Message) -> Message:
    """Returns a message without the empty fields that a dataset gives to parts of other types."""
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [{name: value for name, value in part.items() if value is not None} for part in content]
        if all(_is_part(part) for part in parts):
            content = parts
    if not isinstance(message.get("role"), str) or not (
        isinstance(content, str) or (content and content is not message.get("content"))
    ):
        raise ValueError(
            f"it has the message {message}, but messages have a role and a content, both text; a content may also be "
            "a list of parts, {'type': 'text', 'text': ...} and {'type': 'image'}, whose images are in the column "
            "images"
        )
    return {**message, "content": content}


def _is_part(part: Mapping[str, Any]) -> bool:
    if part.get("type") == "text":
        return isinstance(part.get("text"), str)
    return part == {"type": "image"}


def _with_image_parts(messages: Sequence[Message], num_images: int) -> list[Message]:
    """Returns messages of parts; images that have no place in them come first.

    Raises:
        ValueError: If they have some places, but not as many as there are images.
    """
    listed = [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message["content"], str)
        else message
        for message in messages
    ]
    places = sum(part["type"] == "image" for message in listed for part in message["content"])
    if places not in (0, num_images):
        raise ValueError(
            f"its messages have {places} parts of type image, but the row has {num_images} images: write one for "
            "each, or none, and the images come first"
        )
    if places == num_images:
        return listed
    first = next((i for i, message in enumerate(listed) if message["role"] == "user"), 0)
    content = [*({"type": "image"} for _ in range(num_images)), *listed[first]["content"]]
    return [*listed[:first], {**listed[first], "content": content}, *listed[first + 1 :]]
