"""Models that a page can ask: how they are loaded, what they read, and how much of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

# the import registers our models with the Auto classes: their folders load without the code in them
from encdec_slm.distillation.prompts import chat_prompt, text_prompt


if TYPE_CHECKING:
    from PIL.Image import Image

Inputs = dict[str, torch.Tensor]

SOURCE = "{source}"
# a tokenizer takes seconds for a text of megabytes
MOST_CHARACTERS = 20_000
# of models that do not say how many positions they have
MOST_INPUT_TOKENS = 4_096


@dataclass(frozen=True)
class Question:
    """What the models of a page are asked."""

    text: str
    image: "Image | None" = None


@dataclass(frozen=True)
class Respondent:
    """A model and how it is asked.

    Attributes:
        name: Folder or Hub id.
        model: An encoder-decoder or a decoder-only model.
        tokenizer: Reads its answers.
        encode: Turns a question into what `generate` takes.
        max_new_tokens: Longest answer.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    encode: Callable[[Question], Inputs]
    max_new_tokens: int

    @property
    def kind(self) -> str:
        """What the model is, for a reader: architecture and size."""
        architecture = "encoder-decoder" if self.model.config.is_encoder_decoder else "decoder-only"
        return f"{architecture}, {self.model.num_parameters():,} parameters"

    def inputs(self, question: Question) -> Inputs:
        """Returns what `generate` takes to answer a question, a batch of one.

        Raises:
            ValueError: If there is nothing to answer, or more than the model reads.
        """
        if not question.text.strip() and question.image is None:
            raise ValueError("there is no text to answer: type one first")
        if len(question.text) > MOST_CHARACTERS:
            raise ValueError(
                f"the text has {len(question.text):,} characters, but this page takes at most {MOST_CHARACTERS:,}: "
                "shorten it"
            )
        inputs = self.encode(question)
        tokens, most = inputs["input_ids"].shape[1], self.most_input_tokens
        if tokens > most:
            raise ValueError(f"the input has {tokens:,} tokens, but {self.name} reads at most {most:,}: shorten it")
        return inputs

    @property
    def most_input_tokens(self) -> int:
        """Longest input; an answer of a decoder-only model takes positions of its own."""
        decoder_only = not self.model.config.is_encoder_decoder
        reader = self.model if decoder_only else self.model.get_encoder()
        config = reader.config.get_text_config()
        # T5 has no such number
        positions = getattr(config, "max_position_embeddings", None) or MOST_INPUT_TOKENS
        return positions - self.max_new_tokens * decoder_only


def load_text_model(
    name: str, *, template: str | None = None, max_new_tokens: int, trust_remote_code: bool = False
) -> Respondent:
    """Loads a model that reads text.

    Args:
        name: Folder or Hub id of an encoder-decoder or a decoder-only model.
        template: What the model reads: a text with {source} in it. By default an encoder-decoder reads the text
            itself, and a decoder-only model what `DistillationTrainer` shows a teacher: the text in its chat
            template, or, if it has none, the text and a line break.
        max_new_tokens: Longest answer.
        trust_remote_code: Whether to run code that lies in the folder.

    Raises:
        ValueError: If the template has no {source}, or no position is left for an input.
    """
    config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    model_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    encode = _encode_for_encoder if config.is_encoder_decoder else _encode_prompt
    return _checked(
        Respondent(
            name=name,
            model=_load(model_class, name, trust_remote_code),
            tokenizer=tokenizer,
            encode=partial(encode, tokenizer=tokenizer, template=_checked_template(template)),
            max_new_tokens=max_new_tokens,
        )
    )


def load_image_text_model(
    name: str, *, template: str | None = None, max_new_tokens: int, trust_remote_code: bool = False
) -> Respondent:
    """Loads a model that reads an image and a text.

    Args:
        name: Folder or Hub id of a model of `AutoModelForImageTextToText`, with its processor.
        template: What the model reads: a text with {source} in it, and with what stands for the image where the
            processor does not put it there itself. By default the chat template, or, if there is none, the text.
        max_new_tokens: Longest answer.
        trust_remote_code: Whether to run code that lies in the folder.

    Raises:
        ValueError: If the template has no {source}, or no position is left for an input.
    """
    processor = AutoProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
    return _checked(
        Respondent(
            name=name,
            model=_load(AutoModelForImageTextToText, name, trust_remote_code),
            tokenizer=processor.tokenizer,
            encode=partial(_encode_image_and_text, processor=processor, template=_checked_template(template)),
            max_new_tokens=max_new_tokens,
        )
    )


def _load(model_class: Any, name: str, trust_remote_code: bool) -> PreTrainedModel:
    # no pickles: a page loads what its visitors' machine is told to load
    return model_class.from_pretrained(
        name, dtype="auto", use_safetensors=True, trust_remote_code=trust_remote_code
    ).eval()


def _checked_template(template: str | None) -> str | None:
    if template is not None and SOURCE not in template:
        raise ValueError(f"the template {template!r} has no {SOURCE}: say where the text of the visitor goes")
    return template


def _checked(respondent: Respondent) -> Respondent:
    if respondent.most_input_tokens < 1:
        raise ValueError(
            f"{respondent.name} has no position left for an input beside an answer of {respondent.max_new_tokens} "
            "tokens: lower --max-new-tokens"
        )
    return respondent


def _encode_for_encoder(question: Question, *, tokenizer: PreTrainedTokenizerBase, template: str | None) -> Inputs:
    encoded = tokenizer((template or SOURCE).replace(SOURCE, question.text), return_tensors="pt", verbose=False)
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def _encode_prompt(question: Question, *, tokenizer: PreTrainedTokenizerBase, template: str | None) -> Inputs:
    if template is not None:
        ids = text_prompt(tokenizer, template.replace(SOURCE, question.text))
    elif tokenizer.chat_template is not None:
        ids = chat_prompt(tokenizer, [{"role": "user", "content": question.text}])
    else:
        ids = text_prompt(tokenizer, question.text + "\n")
    input_ids = torch.tensor([ids])
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def _encode_image_and_text(question: Question, *, processor: ProcessorMixin, template: str | None) -> Inputs:
    if question.image is None:
        raise ValueError("there is no image: choose one first")
    if template is None and processor.chat_template is not None:
        content = [{"type": "image", "image": question.image}, {"type": "text", "text": question.text}]
        return dict(
            processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        )
    text = (template or SOURCE).replace(SOURCE, question.text)
    return dict(processor(images=[question.image], text=[text], return_tensors="pt"))
