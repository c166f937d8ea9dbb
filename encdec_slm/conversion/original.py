"""Text checkpoints of the original, microsoft/encoder-decoder-slm, into a folder of ours."""

from collections.abc import Mapping
from functools import reduce
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from encdec_slm.conversion.build import build_model
from encdec_slm.conversion.checkpoint_file import read_checkpoint_file
from encdec_slm.conversion.original_config import OriginalConfig, read_original_config
from encdec_slm.conversion.original_layout import group_query_heads, measure, original_layout
from encdec_slm.conversion.special_tokens import agree_on_token_id, load_tokenizer, pad_like_the_model
from encdec_slm.models.configuration_encdec_slm import EncDecSLMConfig
from encdec_slm.output_folder import output_folder


logger = logging.get_logger(__name__)

# of the tokenizer that the released model was trained with
RELEASED_BOS_TOKEN_ID = 1
RELEASED_EOS_TOKEN_ID = 32_000


def convert_original(
    checkpoint: str | PathLike[str],
    output: str | PathLike[str],
    *,
    config: str | PathLike[str] | None = None,
    tokenizer: str | PathLike[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Converts a text checkpoint of the original into a folder that `AutoModelForSeq2SeqLM.from_pretrained` loads.

    The converted model computes what the original computes, if it is given the masks that the original derives from
    its padding token (`attention_mask=input_ids != pad_token_id`). The dtype of the weights is kept.

    Sizes come from the tensors. What they cannot tell (heads and their order, RoPE, block size, padding token) comes
    from `config`, then from the configuration that the original's trainer saves with the weights, then from the
    released 330M model. The ids that begin and end a sequence come from `config`, then from the tokenizer, then from
    the released model.

    Args:
        checkpoint: File of the original: `{"model_state_dict": ...}`, a bare state dict, or safetensors.
        output: Folder to write.
        config: JSON file with fields of the original's `MuConfig`, and `bos_token_id` and `eos_token_id` if wanted.
        tokenizer: Folder of a tokenizer, to be saved with the model.
        overwrite: Whether `output` may hold something. Its model and tokenizer files are replaced, all others stay.

    Returns:
        The output folder.

    Raises:
        FileNotFoundError: If the checkpoint or the JSON file does not exist.
        ValueError: If the checkpoint is not a text model of the original, if configuration, tensors and tokenizer
            contradict each other, or if `output` holds something and `overwrite` was not given. Nothing is written.

    Example:
    ```python
    convert_original("artifacts/models/model.pt", "encdec-slm-330m", tokenizer="Phi-3.5-mini-instruct")
    model = AutoModelForSeq2SeqLM.from_pretrained("encdec-slm-330m")
    ```
    """
    inputs = [path for path in (checkpoint, config, tokenizer) if path is not None]
    with output_folder(output, overwrite=overwrite, inputs=inputs) as folder:
        tensors, recorded = read_original_checkpoint(checkpoint)
        stated = _merge(recorded, {} if config is None else read_original_config(config))
        original = OriginalConfig.from_sources(stated, measure(tensors))
        loaded_tokenizer = None if tokenizer is None else load_tokenizer(tokenizer, original.vocab_size)
        our_config = to_our_config(original, loaded_tokenizer)
        model = build_model(our_config, to_our_state_dict(tensors, original), widest_dtype(tensors))
        model.save_pretrained(folder)
        if loaded_tokenizer is not None:
            pad_like_the_model(loaded_tokenizer, original.pad_token_id)
            loaded_tokenizer.save_pretrained(folder)
    return Path(output)


def read_original_checkpoint(path: str | PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Returns the tensors of a file of the original by their names, and the configuration that it holds beside them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else, or asks for more than tensors and plain values.
    """
    checkpoint = read_checkpoint_file(path)
    recorded: dict[str, Any] = {}
    tensors = checkpoint
    if isinstance(checkpoint, Mapping) and "model_state_dict" in checkpoint:
        tensors = checkpoint["model_state_dict"]
        recorded = checkpoint.get("model_config", {})
    if not isinstance(tensors, Mapping) or not isinstance(recorded, Mapping):
        raise ValueError(f"the checkpoint {path} holds no state dict, a mapping of names to tensors")
    strange = [str(name) for name, value in tensors.items() if not (isinstance(name, str) and torch.is_tensor(value))]
    if strange:
        raise ValueError(
            f"the checkpoint {path} holds things that are no tensors ({', '.join(strange)}): save the state dict "
            'alone, or as {"model_state_dict": ...}'
        )
    return dict(tensors), dict(recorded)


def _merge(recorded: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in stated.items():
        if name in recorded and recorded[name] != value:
            logger.warning(
                f"{name} is {recorded[name]} in the configuration saved with the checkpoint, and {value} in the file: "
                "the file's is taken"
            )
    return {**recorded, **stated}


def to_our_config(
    original: OriginalConfig, tokenizer: PreTrainedTokenizerBase | None, *, lm_head_bias: bool = False
) -> EncDecSLMConfig:
    """Returns our configuration of the original's text model, or of the text half of its vision model.

    Raises:
        ValueError: If the original and the tokenizer have other ids for a special token, or no token ends an output.
    """
    stack = {
        "vocab_size": original.vocab_size,
        "hidden_size": original.n_embd,
        "intermediate_size": original.hidden_dim,
        "num_attention_heads": original.n_head,
        "num_key_value_heads": original.n_kv_head,
        "head_dim": original.head_dim,
        "hidden_act": "gelu_pytorch_tanh",
        "gated_mlp": False,
        "attention_bias": True,
        "mlp_bias": True,
        "rms_norm_eps": 1e-6,
        "rope_parameters": original.rope_parameters,
        "max_position_embeddings": original.block_size,
        "dropout": original.dropout,
        "attention_dropout": original.dropout,
    }
    bos_token_id, eos_token_id = _sequence_token_ids(original, tokenizer)
    special_tokens: dict[str, Any] = {
        "pad_token_id": original.pad_token_id,
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "decoder_start_token_id": bos_token_id,
    }
    return EncDecSLMConfig(
        encoder={**stack, "num_hidden_layers": original.n_encoder_layer},
        decoder={**stack, "num_hidden_layers": original.n_decoder_layer},
        **special_tokens,
        tie_word_embeddings=True,
        lm_head_bias=lm_head_bias,
        initializer_range=0.02,
    )


def _sequence_token_ids(original: OriginalConfig, tokenizer: PreTrainedTokenizerBase | None) -> tuple[int, int | None]:
    bos_token_id, eos_token_id = original.bos_token_id, original.eos_token_id
    if tokenizer is not None:
        bos_token_id = agree_on_token_id("bos_token_id", bos_token_id, tokenizer)
        eos_token_id = agree_on_token_id("eos_token_id", eos_token_id, tokenizer)
        if eos_token_id is None:
            raise ValueError("the tokenizer has no eos_token, so that no output would end: set it and save it again")
    if bos_token_id is None:
        bos_token_id = RELEASED_BOS_TOKEN_ID
    if eos_token_id is None and original.vocab_size > RELEASED_EOS_TOKEN_ID:
        eos_token_id = RELEASED_EOS_TOKEN_ID
    elif eos_token_id is None:
        logger.warning(
            f"Nothing states eos_token_id, and the released model's ({RELEASED_EOS_TOKEN_ID}) is outside the "
            f"checkpoint's {original.vocab_size} tokens: the converted model has none and generates up to "
            "`max_new_tokens`. Give a tokenizer, or eos_token_id in a configuration file."
        )
    return bos_token_id, eos_token_id


def widest_dtype(tensors: Mapping[str, torch.Tensor]) -> torch.dtype:
    """Returns a dtype that holds every one of the tensors without loss."""
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))


def to_our_state_dict(tensors: Mapping[str, torch.Tensor], original: OriginalConfig) -> dict[str, torch.Tensor]:
    """Returns the text model's tensors by our names, in our order of heads."""
    layout = original_layout(original.n_encoder_layer, original.n_decoder_layer)
    rows: dict[str, list[torch.Tensor]] = {}
    for name, slot in layout.items():
        tensor = tensors[name]
        if "qkv_embd" in slot.dimensions and not original.is_interleaved:
            tensor = group_query_heads(
                tensor,
                slot.dimensions.index("qkv_embd"),
                num_heads=original.n_head,
                num_key_value_heads=original.n_kv_head,
            )
        rows.setdefault(slot.target, []).append(tensor)
    return {target: torch.cat(tensors_of_target) for target, tensors_of_target in rows.items()}
