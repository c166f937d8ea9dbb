"""Texts with images: where in a text the images stand, and what a processor makes of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from encdec_slm.distillation.text_tokens import frame_text


# what a processor says of each token, beside its id: which of them stand for images
TOKEN_TYPES = "token_type_ids"
# a mask of tokens and images at once, in which padding and a target would have no place
UNKNOWN_INPUTS = ("cross_attention_mask",)


@dataclass(frozen=True, eq=False, kw_only=True)
class ReadText:
    """A text with its images, as a model reads it.

    Args:
        ids: Of shape (tokens,); an image has as many tokens as it needs.
        token_types: What else there is of each token, by the name of the model's argument, of the same shape.
        images: The tensors of all images, by the name of the model's argument.
    """

    ids: torch.Tensor
    token_types: Mapping[str, torch.Tensor] = field(default_factory=dict)
    images: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageTextReader:
    """Reads texts with images by a processor of Transformers.

    Args:
        processor: Of the model that reads.
        is_prompt: Whether the text is open at its end: without the special tokens that the tokenizer puts there.
    """

    processor: ProcessorMixin
    is_prompt: bool = False

    def __call__(self, text: str, images: Sequence[Any] = ()) -> ReadText:
        """Returns a text and its images as a model reads them.

        Args:
            text: With the processor's image token for each image.
            images: As the processor takes them.

        Raises:
            ValueError: If there are more or fewer images than image tokens, or the processor gives what is not known.
        """
        marker = image_token(self.processor)
        if text.count(marker) != len(images):
            raise ValueError(
                f"a text has {text.count(marker)} image tokens {marker!r}, but its row has {len(images)} images: "
                f"write one for each. The text is {text[:200]!r}"
            )
        given: Any = self.processor(text=[text], images=[list(images)] if images else None, return_tensors="pt")
        ids = given["input_ids"][0]
        for name in UNKNOWN_INPUTS:
            if name in given:
                raise ValueError(
                    f"the processor {type(self.processor).__name__} gives {name}, which is of tokens and images at "
                    "once, and it is not known how a target would go on with it: take a model that reads images as "
                    "tokens among others"
                )
        part = self._prompt(text, ids) if self.is_prompt else slice(None)
        names = [name for name in given if name not in ("input_ids", "attention_mask")]
        return ReadText(
            ids=ids[part],
            token_types={name: given[name][0][part] for name in names if name.endswith(TOKEN_TYPES)},
            images={name: given[name] for name in names if not name.endswith(TOKEN_TYPES)},
        )

    def _prompt(self, text: str, ids: torch.Tensor) -> slice:
        """Returns which tokens are left of a text that is open at its end and begins once."""
        tokenizer: Any = tokenizer_of(self.processor)
        stop = len(ids) - frame_text(tokenizer, text).after
        start = 0
        # some templates write as text what the tokenizer adds as well
        while ids[start : start + 2].tolist() == [tokenizer.bos_token_id] * 2:
            start += 1
        return slice(start, stop)


def tokenizer_of(processing_class: Any) -> PreTrainedTokenizerBase:
    """Returns a processor's tokenizer, or the tokenizer that is given."""
    if isinstance(processing_class, ProcessorMixin):
        return processing_class.tokenizer
    return processing_class


def processor_of(processing_class: Any) -> ProcessorMixin | None:
    """Returns a processor that reads images, or None for a tokenizer."""
    if isinstance(processing_class, ProcessorMixin) and hasattr(processing_class, "image_processor"):
        return processing_class
    return None


def image_token(processor: ProcessorMixin) -> str:
    """Returns what stands for an image in a text that a processor reads.

    Raises:
        ValueError: If it has no such token.
    """
    if not marks_images(processor):
        raise ValueError(
            f"the processor {type(processor).__name__} has no image_token, so that it is not known where in a text "
            "its images stand: take one whose texts have a token for each image"
        )
    return str(processor.image_token)  # type: ignore[attr-defined]


def marks_images(processor: ProcessorMixin) -> bool:
    """Returns whether a processor has a token for each image of a text."""
    return getattr(processor, "image_token", None) is not None


def optional_image_token(processor: ProcessorMixin | None) -> str | None:
    """Returns what stands for an image, or None where nothing does."""
    return image_token(processor) if processor is not None and marks_images(processor) else None


def placeholder_ids(processing_class: Any) -> tuple[int, ...]:
    """Returns the ids that stand for images, videos and sound in what a model reads; none for a tokenizer."""
    processor: Any = processor_of(processing_class)
    if processor is None or not marks_images(processor):
        return ()
    listed = [getattr(processor, f"{kind}_token_ids", None) or () for kind in ("image", "video", "audio")]
    own = cast(int, tokenizer_of(processor).convert_tokens_to_ids(image_token(processor)))
    return tuple(sorted({int(i) for ids in (*listed, [own]) for i in ids if i is not None}))


def with_image_tokens(text: str, token: str, count: int, *, what: str) -> str:
    r"""Returns a text with a token for each image: where it has them already, or all in front, one a line.

    Args:
        text: May have as many tokens as there are images.
        token: What stands for an image.
        count: Number of images.
        what: What the text is, for messages.

    Raises:
        ValueError: If it has some, but not as many as there are images.

    Example:
    >>> with_image_tokens("What is this?", "<image>", 1, what="source")
    '<image>\nWhat is this?'
    """
    found = text.count(token)
    if found not in (0, count):
        raise ValueError(
            f"its {what} has {found} image tokens {token!r}, but the row has {count} images: write one for each, or "
            "none, and the images come first"
        )
    return text if found else f"{token}\n" * count + text


def refuse_image_tokens(name: str, text: str, token: str | None) -> None:
    """Refuses a text that has what stands for an image.

    Args:
        name: What the text is.
        text: The text.
        token: What stands for an image; None if nothing does.

    Raises:
        ValueError: If the text has it.
    """
    if token is not None and token in text:
        raise ValueError(
            f"{name} has the image token {token!r}, but images are where the source has it, or else in front of the "
            "source: take it out"
        )


def message_parts(text: str, token: str) -> list[dict[str, str]]:
    r"""Returns a text with images as the parts of a message for a chat template.

    Args:
        text: With a token for each image.
        token: What stands for an image.

    Example:
    >>> message_parts("<image>\nWhat is this?", "<image>")
    [{'type': 'image'}, {'type': 'text', 'text': 'What is this?'}]
    """
    pieces, parts = text.split(token), []
    for i, piece in enumerate(pieces):
        # line breaks around an image are for models that read no messages
        piece = piece.removeprefix("\n") if i else piece
        piece = piece.removesuffix("\n") if i + 1 < len(pieces) else piece
        parts += [{"type": "image"}] if i else []
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts
