"""A model of ours from a configuration and tensors that fill it."""

from typing import Any

import torch
from transformers import GenerationConfig

from encdec_slm.models.configuration_encdec_slm import EncDecSLMConfig
from encdec_slm.models.modeling_encdec_slm import EncDecSLMForConditionalGeneration


def build_model(
    config: EncDecSLMConfig,
    state_dict: dict[str, torch.Tensor],
    dtype: torch.dtype,
    model_class: type[EncDecSLMForConditionalGeneration] = EncDecSLMForConditionalGeneration,
) -> EncDecSLMForConditionalGeneration:
    """Returns the model on the CPU; its generation configuration has the token ids of `config` and nothing else.

    Args:
        config: Configuration of the model.
        state_dict: Its tensors, by the names of its modules.
        dtype: Of the weights.
        model_class: Its class, that of the text model or one that adds to it.

    Raises:
        RuntimeError: If a tensor is missing, left over or of another shape.
    """
    # with its report the library returns a pair, which its annotation does not say
    loaded: Any = model_class.from_pretrained(
        None, config=config, state_dict=state_dict, dtype=dtype, output_loading_info=True
    )
    model, report = loaded
    # the library only warns, and draws what is missing at random
    if any(report.values()):
        raise RuntimeError(f"the tensors of the checkpoint do not fill our model: {report}")
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    return model
