"""Arguments of `generate` as those of CTranslate2, which knows fewer: what it has no equal for is refused by name."""

from dataclasses import dataclass, field
from typing import Any

from transformers import GenerationConfig


# what `to_engine_options` reads
READ = {
    "max_length", "max_new_tokens", "min_length", "min_new_tokens",
    "do_sample", "temperature", "top_k", "top_p",
    "num_beams", "num_return_sequences", "length_penalty", "early_stopping",
    "repetition_penalty", "no_repeat_ngram_size",
    "pad_token_id", "eos_token_id",
}  # fmt: skip
# what makes no difference here: the engine always has a cache, starts as it was exported, and returns tokens
WITHOUT_EFFECT = {
    "bos_token_id", "decoder_start_token_id", "use_cache", "cache_implementation", "disable_compile",
    "transformers_version",
}  # fmt: skip
# of the library, where neither the call nor the model says anything
DEFAULT_MAX_LENGTH = 20
DEFAULT_TOP_K = 50


@dataclass(frozen=True)
class EngineOptions:
    """A call of `generate`, for the engine.

    Attributes:
        eos_token_ids: Where an answer ends.
        pad_token_id: What fills up the shorter answers.
        sequences_per_input: Answers to one input.
        translate: Arguments of `ctranslate2.Translator.translate_batch`.
    """

    eos_token_ids: list[int]
    pad_token_id: int
    sequences_per_input: int
    translate: dict[str, Any] = field(default_factory=dict)


def merge(
    of_the_model: GenerationConfig, of_the_call: GenerationConfig | None, arguments: dict[str, Any]
) -> GenerationConfig:
    """Returns the configuration of a call: its arguments, then its configuration, then the model's.

    Raises:
        ValueError: If an argument is none of generation, such as `inputs_embeds` or `logits_processor`.
    """
    merged = GenerationConfig.from_dict(of_the_model.to_dict())
    if of_the_call is not None:
        merged.update(**{name: value for name, value in of_the_call.to_dict().items() if value is not None})
    unknown = merged.update(**{name: value for name, value in arguments.items() if value is not None})
    if unknown:
        raise ValueError(
            f"{', '.join(sorted(unknown))}: `generate` over CTranslate2 has no such argument; it knows input_ids, "
            f"attention_mask, generation_config, streamer and {', '.join(sorted(READ))}"
        )
    return merged


def to_engine_options(config: GenerationConfig, vocab_size: int) -> EngineOptions:
    """Translates a generation configuration.

    Raises:
        ValueError: If it asks for what the engine cannot do, or does differently.
    """
    _refuse_what_is_not_read(config)
    eos = config.eos_token_id
    if eos is None:
        raise ValueError("eos_token_id is None, but CTranslate2 always ends at a token: pass min_new_tokens instead")
    eos_token_ids = [int(eos)] if isinstance(eos, int) else [int(token_id) for token_id in eos]
    beams, sequences = config.num_beams or 1, config.num_return_sequences or 1
    most, least = _lengths(config)
    translate = {
        "max_decoding_length": most,
        "min_decoding_length": least,
        "repetition_penalty": _or(config.repetition_penalty, 1.0),
        "no_repeat_ngram_size": config.no_repeat_ngram_size or 0,
        "beam_size": beams,
        "num_hypotheses": sequences,
    }
    if beams > 1:
        translate |= _beam_options(config, beams, sequences)
    elif config.do_sample:
        translate |= _sampling_options(config, vocab_size)
    elif sequences > 1:
        raise ValueError(f"num_return_sequences={sequences} needs as many beams (num_beams), or do_sample=True")
    pad = config.pad_token_id
    # as the library does: its beam search takes a padding token 0 for none
    without_pad = not pad if beams > 1 else pad is None
    return EngineOptions(
        eos_token_ids=eos_token_ids,
        pad_token_id=eos_token_ids[0] if without_pad else pad,
        sequences_per_input=sequences,
        translate=translate,
    )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _refuse_what_is_not_read(config: GenerationConfig) -> None:
    neutral = GenerationConfig._get_default_generation_params()
    asked = [
        name
        for name, value in config.to_diff_dict().items()
        if not (name in READ | WITHOUT_EFFECT or name.startswith("_") or value in (None, False, neutral.get(name)))
    ]
    if asked:
        raise ValueError(
            f"{', '.join(sorted(asked))}: CTranslate2 does not generate with this; leave it out, or use the PyTorch "
            "model"
        )


def _lengths(config: GenerationConfig) -> tuple[int, int]:
    """Returns the largest and smallest number of new tokens. Lengths in all count the start token."""
    most = config.max_new_tokens
    if most is None:
        most = _or(config.max_length, DEFAULT_MAX_LENGTH) - 1
    least = max(_or(config.min_new_tokens, 0), _or(config.min_length, 0) - 1)
    if most < 1:
        raise ValueError(f"max_new_tokens is {most}: ask for one at least")
    if least > most:
        raise ValueError(f"min_new_tokens ({least}) is more than max_new_tokens ({most})")
    return most, least


def _beam_options(config: GenerationConfig, beams: int, sequences: int) -> dict[str, Any]:
    if config.do_sample:
        raise ValueError(f"num_beams={beams} and do_sample=True: CTranslate2 searches or samples, choose one")
    if sequences > beams:
        raise ValueError(f"num_return_sequences ({sequences}) is more than num_beams ({beams})")
    if config.early_stopping not in (None, True):
        raise ValueError(
            f"early_stopping={config.early_stopping!r}: CTranslate2 ends a beam search when num_beams answers are "
            "complete, which is early_stopping=True"
        )
    return {"length_penalty": _or(config.length_penalty, 1.0)}


def _sampling_options(config: GenerationConfig, vocab_size: int) -> dict[str, Any]:
    temperature, top_p = _or(config.temperature, 1.0), _or(config.top_p, 1.0)
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, but must be positive: pass do_sample=False for the likeliest")
    top_k = _or(config.top_k, DEFAULT_TOP_K)
    # 0 is all tokens in both libraries
    return {
        "sampling_temperature": temperature,
        "sampling_topk": top_k if top_k < vocab_size else 0,
        "sampling_topp": top_p,
    }
