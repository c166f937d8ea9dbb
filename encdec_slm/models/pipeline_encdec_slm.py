"""`pipeline("text2text-generation")`, which Transformers 5 no longer brings: text in, text out, any `Seq2SeqLM`."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, Pipeline


class Text2TextGenerationPipeline(Pipeline):
    """Generates a text from a text with an encoder-decoder model.

    Works for every `AutoModelForSeq2SeqLM` (this package's, T5, BART). A string gives a list with one dictionary per
    returned sequence, a list of strings the dictionaries in one list (a list of lists if `num_return_sequences` > 1);
    a `datasets` column, a generator and `batch_size` work as in every pipeline.

    Args of the call:
        prefix: Text put before every input; by default the model's `config.prefix`, if it has one.
        truncation: How the tokenizer truncates, as in `PreTrainedTokenizerBase.__call__`.
        return_tensors: Return the token ids as `generated_token_ids` in place of the text.
        clean_up_tokenization_spaces: Whether the tokenizer removes the blanks before punctuation.
        stop_sequence: Generation stops after this text; same as `stop_strings`.
        generate_kwargs: Everything else goes to `generate`: `max_new_tokens`, `num_beams`, `do_sample`, `streamer`...

    Example:
        >>> from transformers import pipeline
        >>> pipe = pipeline("text2text-generation", model=folder)  # doctest: +SKIP
        >>> pipe("zyzzyva", max_new_tokens=16)  # doctest: +SKIP
        [{'generated_text': 'Z IH Z IY V AH'}]
    """

    _pipeline_calls_generate = True
    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    # the library's default of 20 tokens in all is too short to be useful, as in its other text pipelines
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.model.config.is_encoder_decoder:
            raise ValueError(
                f"text2text-generation needs an encoder-decoder, but {type(self.model).__name__} is none: use "
                "pipeline('text-generation') for it"
            )

    def _sanitize_parameters(
        self,
        prefix: str | None = None,
        truncation: bool | str | None = None,
        return_tensors: bool | None = None,
        return_text: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        stop_sequence: str | None = None,
        **generate_kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if return_tensors and return_text:
            raise ValueError("return_tensors and return_text exclude each other: pass one of them")
        if return_text is not None:
            return_tensors = not return_text
        forward = {
            "stop_strings": stop_sequence,
            # those of the pipeline, where the call brings none
            "assistant_model": self.assistant_model,
            "assistant_tokenizer": self.assistant_tokenizer,
        }
        preprocess = {"prefix": prefix, "truncation": truncation}
        postprocess = {
            "return_tensors": return_tensors,
            "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
        }
        return _given(preprocess), {**_given(forward), **generate_kwargs}, _given(postprocess)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Generates from `inputs`: a string, a list or other sequence of strings, a dataset or a generator."""
        if isinstance(inputs, str) or not isinstance(inputs, Sequence):
            return super().__call__(inputs, **kwargs)
        if not inputs:
            return []
        outputs = super().__call__(list(inputs), **kwargs)
        # one record per input: no list around it
        return [output[0] if len(output) == 1 else output for output in outputs]

    def preprocess(
        self, inputs: str, prefix: str | None = None, truncation: bool | str = False
    ) -> dict[str, torch.Tensor]:
        """Tokenizes one text, shape `(1, source)`."""
        if not isinstance(inputs, str):
            raise ValueError(f"text2text-generation reads strings, got {type(inputs).__name__}: {inputs!r}")
        if prefix is None:
            prefix = self.prefix or ""
        encoded = self.tokenizer(prefix + inputs, truncation=truncation, return_tensors="pt")
        # tokenizers of BERT's kind give them, encoder-decoders do not take them
        encoded.pop("token_type_ids", None)
        return encoded

    def _forward(self, model_inputs: dict[str, torch.Tensor], **generate_kwargs: Any) -> dict[str, torch.Tensor]:
        if hasattr(self, "_prepare_generate_kwargs"):
            generate_kwargs = self._prepare_generate_kwargs(generate_kwargs, return_dict_in_generate=False)
        else:  # transformers < 5.17
            generate_kwargs.setdefault("generation_config", self.generation_config)
        # `stop_strings` may come with the call, the pipeline or the model, and are looked for in the text
        generate_kwargs.setdefault("tokenizer", self.tokenizer)
        generated = self.model.generate(**model_inputs, **generate_kwargs)
        # one row per input, so that the pipeline can take a batch apart
        return {"output_ids": generated.unflatten(0, (model_inputs["input_ids"].shape[0], -1))}

    def postprocess(
        self,
        model_outputs: dict[str, torch.Tensor],
        return_tensors: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> list[dict[str, Any]]:
        """Turns the sequences of one input, shape `(1, sequences, target)`, into records."""
        sequences = model_outputs["output_ids"][0]
        if return_tensors:
            return [{"generated_token_ids": sequence} for sequence in sequences]
        texts = self.tokenizer.batch_decode(
            sequences, skip_special_tokens=True, clean_up_tokenization_spaces=clean_up_tokenization_spaces
        )
        return [{"generated_text": text} for text in texts]


def _given(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


__all__ = ["Text2TextGenerationPipeline"]
