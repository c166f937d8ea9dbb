"""What is exported: a model of ours in float32, and what lies beside its weights."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer, PreTrainedModel
from transformers.utils.hub import cached_file

from encdec_slm.models.configuration_encdec_slm import EncDecSLMConfig
from encdec_slm.models.configuration_encdec_slm_vision import EncDecSLMVisionConfig


OF_THE_CODE = ("auto_map", "custom_pipelines")


def load_source(name_or_path: str | PathLike[str]) -> PreTrainedModel:
    """Returns a model of ours in float32 and evaluation mode, for an exporter to read.

    Args:
        name_or_path: Its folder, or id on the Hub.

    Raises:
        ValueError: If it is no encoder-decoder of this package.
    """
    if isinstance(name_or_path, Path) and not name_or_path.is_dir():
        raise ValueError(f"the folder {name_or_path} does not exist")
    config = AutoConfig.from_pretrained(name_or_path)
    if not isinstance(config, EncDecSLMConfig | EncDecSLMVisionConfig):
        raise ValueError(
            f"{name_or_path} is a {config.model_type} model, but exporters know the architecture of this package "
            f"alone ({EncDecSLMConfig.model_type}, {EncDecSLMVisionConfig.model_type}): use Optimum for others"
        )
    return AutoModelForSeq2SeqLM.from_pretrained(name_or_path, dtype=torch.float32).eval()


def save_companions(model: PreTrainedModel, name_or_path: str | PathLike[str], folder: Path) -> None:
    """Writes what belongs beside exported weights: configurations, and the tokenizer or processor if there is one.

    Args:
        model: What is exported.
        name_or_path: Where it came from.
        folder: Where it goes.
    """
    # `save_pretrained` would write the code of the PyTorch model too, which nobody needs here
    fields = {name: value for name, value in model.config.to_dict().items() if name not in OF_THE_CODE}
    (folder / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    model.generation_config.save_pretrained(folder)
    for file, auto_class in (("processor_config.json", AutoProcessor), ("tokenizer_config.json", AutoTokenizer)):
        reader: Any = auto_class
        if cached_file(name_or_path, file, _raise_exceptions_for_missing_entries=False) is not None:
            reader.from_pretrained(name_or_path).save_pretrained(folder)
            return
