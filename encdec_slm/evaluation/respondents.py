"""Who answers: an encoder-decoder, a decoder-only model, a model that sees, or a copy of the input."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase, ProcessorMixin

from encdec_slm.evaluation.examples import Example
from encdec_slm.evaluation.tasks import IMAGE, SOURCE


IMAGE_PLACE = f"{{{IMAGE}}}"


@dataclass(kw_only=True)
class Stopwatch:
    """Seconds in `generate`, and how many inputs were cut to the longest that a model takes."""

    generation_seconds: float = 0.0
    truncated: int = 0


class Respondent(Protocol):
    """Answers examples.

    Attributes:
        stopwatch: What has been measured so far.
        template: What a decoder-only model reads, with the prompt as `{source}`; None for one that reads the prompt.
    """

    stopwatch: Stopwatch
    template: str | None

    def length(self, example: Example) -> int:
        """Returns how long an input is: examples of similar lengths are answered together."""

    def answer(
        self, examples: Sequence[Example], images: Sequence[Sequence[Any]], generation: Mapping[str, Any]
    ) -> list[str]:
        """Returns an answer to each example.

        Args:
            examples: What is asked.
            images: Of each example.
            generation: Arguments of `generate`.
        """


@dataclass(kw_only=True)
class Copy:
    """Answers with the input, as a baseline: what no model has to learn."""

    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    template: str | None = None

    def length(self, example: Example) -> int:
        """Returns the number of characters."""
        return len(example.copied)

    def answer(
        self, examples: Sequence[Example], images: Sequence[Sequence[Any]], generation: Mapping[str, Any]
    ) -> list[str]:
        """Returns what would be copied of each example."""
        return [example.copied for example in examples]


@dataclass(kw_only=True)
class TextModel:
    """A model that reads and writes text, by `generate` with `input_ids` and `attention_mask`.

    Attributes:
        model: Of Transformers, or anything with this `generate`.
        tokenizer: The model's.
        is_encoder_decoder: Whether all that `generate` returns is the answer.
        template: See `Respondent`; by default the instruction, in the chat template or before a line break.
        instruction: What a decoder-only model is told where there is no template, with the prompt as `{source}`.
        max_input_tokens: Longer inputs are cut: those of an encoder-decoder at their end, those of a decoder-only
            model, which goes on from there, at their beginning. By default what the tokenizer says.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    is_encoder_decoder: bool
    template: str | None = None
    instruction: str = f"{{{SOURCE}}}"
    max_input_tokens: int | None = None
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    _ids: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tokenizer.pad_token is None:
            # the mask says what is padding
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def length(self, example: Example) -> int:
        """Returns the number of tokens."""
        return len(self._input(example))

    def answer(
        self, examples: Sequence[Example], images: Sequence[Sequence[Any]], generation: Mapping[str, Any]
    ) -> list[str]:
        """Returns an answer to each example; see `Respondent`."""
        inputs = self.tokenizer.pad(
            {"input_ids": [self._input(example) for example in examples]},
            padding_side="right" if self.is_encoder_decoder else "left",
            return_tensors="pt",
        )
        tokens = generate(self.model, inputs, generation, self.stopwatch)
        new = tokens if self.is_encoder_decoder else tokens[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)]

    def _input(self, example: Example) -> list[int]:
        if example.number not in self._ids:
            self._ids[example.number] = self._cut(self._encoded(example.prompt))
        return self._ids[example.number]

    def _encoded(self, prompt: str) -> list[int]:
        if self.is_encoder_decoder:
            return list(self.tokenizer(prompt)["input_ids"])
        told = self.instruction.replace(f"{{{SOURCE}}}", prompt)
        if self.template is None and self.tokenizer.chat_template is not None:
            return chat_ids(self.tokenizer, told)
        text = f"{told}\n" if self.template is None else self.template.replace(f"{{{SOURCE}}}", prompt)
        ids = list(self.tokenizer(text)["input_ids"])
        # some tokenizers end each text, but this one goes on
        if ids and ids[-1] == self.tokenizer.eos_token_id and not text.endswith(str(self.tokenizer.eos_token)):
            ids = ids[:-1]
        return ids

    def _cut(self, ids: list[int]) -> list[int]:
        longest = self.max_input_tokens or self.tokenizer.model_max_length
        if len(ids) <= longest:
            return ids
        self.stopwatch.truncated += 1
        if not self.is_encoder_decoder:
            return ids[-longest:]
        # the end of a text is what the model was trained to read last
        end = ids[-1:] if ids[-1] == self.tokenizer.eos_token_id else []
        return ids[: longest - len(end)] + end


@dataclass(kw_only=True)
class ImageTextModel:
    """A model that reads images and text, and its processor.

    Attributes:
        model: Of `AutoModelForImageTextToText`.
        processor: The model's.
        template: See `Respondent`.
    """

    model: Any
    processor: ProcessorMixin
    template: str | None = None
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    def length(self, example: Example) -> int:
        """Returns the number of characters: how many tokens an image takes, only its pixels tell."""
        return len(example.prompt)

    def answer(
        self, examples: Sequence[Example], images: Sequence[Sequence[Any]], generation: Mapping[str, Any]
    ) -> list[str]:
        """Returns an answer to each example; see `Respondent`."""
        is_encoder_decoder = self.model.config.is_encoder_decoder
        texts = [self._text(example.prompt, len(own)) for example, own in zip(examples, images, strict=True)]
        inputs: Any = self.processor(
            text=texts,
            images=[list(own) for own in images] if any(images) else None,
            padding=True,
            # a processor hands it on to its tokenizer
            padding_side="right" if is_encoder_decoder else "left",
            return_tensors="pt",
        )
        tokens = generate(self.model, inputs, generation, self.stopwatch)
        new = tokens if is_encoder_decoder else tokens[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(new, skip_special_tokens=True)]

    def _text(self, prompt: str, images: int) -> str:
        if self.template is not None:
            prompt = self.template.replace(f"{{{SOURCE}}}", prompt)
        if self.processor.chat_template is not None:
            before, _, after = prompt.partition(IMAGE_PLACE)
            parts = [{"type": "text", "text": part.strip()} for part in (before, after)]
            content = [parts[0], *[{"type": "image"}] * images, parts[1]]
            messages: Any = [{"role": "user", "content": [part for part in content if part.get("text") != ""]}]
            return str(self.processor.apply_chat_template(messages, add_generation_prompt=True))
        token = getattr(self.processor, "image_token", None)
        if images and token is None:
            raise ValueError(
                f"the processor {type(self.processor).__name__} has neither a chat template nor an image_token, so "
                "that it is not known where in a text an image stands: give it a chat template"
            )
        return prompt.replace(IMAGE_PLACE, (token or "") * images)


def generate(model: Any, inputs: BatchEncoding, generation: Mapping[str, Any], stopwatch: Stopwatch) -> torch.Tensor:
    """Returns the tokens that `generate` gives, of shape (batch, tokens), and adds its seconds to a stopwatch."""
    device = getattr(model, "device", None)
    given = inputs if device is None else inputs.to(device)
    arguments = {name: value for name, value in given.items() if name != "token_type_ids" or "pixel_values" in given}
    dtype = getattr(model, "dtype", None)
    if isinstance(dtype, torch.dtype):
        arguments = {
            name: value.to(dtype) if torch.is_floating_point(value) else value for name, value in arguments.items()
        }
    start = time.perf_counter()
    with torch.inference_mode():
        tokens = model.generate(**arguments, **generation)
    # copied from the device, so that all work is done when the clock is read
    tokens = torch.as_tensor(tokens).cpu()
    stopwatch.generation_seconds += time.perf_counter() - start
    return tokens


def chat_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Returns the ids of a user's message and of what announces the answer."""
    ids: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return list(ids)
