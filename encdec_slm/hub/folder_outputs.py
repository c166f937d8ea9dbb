"""What a model folder computes: a function here, and a script for a process that does not have this package.

The script therefore imports nothing of ours. Its arguments are a file with those of `folder_outputs` in JSON, the file
of the inputs and the file to write.
"""

import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, ProcessorMixin
from transformers.dynamic_module_utils import get_class_from_dynamic_module


PROBE = "Write what you would answer to 3 plain words."
NEW_TOKENS = 4


def folder_outputs(
    folder: str, inputs: dict[str, torch.Tensor], *, auto_class: str, base: str | None, trust_remote_code: bool
) -> dict[str, torch.Tensor]:
    """Returns what a folder makes of fixed inputs; equal folders give equal tensors.

    Args:
        folder: Folder of a model, or of an adapter.
        inputs: `input_ids`, `attention_mask`, for a model with a decoder `decoder_input_ids`, and for one that sees
            an `image` as the processor in `folder` takes it.
        auto_class: Name of the Auto class that loads the model.
        base: Folder of the model that the adapter in `folder` is for.
        trust_remote_code: Whether the code in the folder is run; all of it is then imported.

    Returns:
        `output`, the first that the model gives (logits, or the states of a bare encoder), `generated` where the
        model generates, and `tokens` of a probe text where there is a tokenizer. Of an image and that text what the
        processor makes, and what the model makes of it, under names that begin with `image`.

    Raises:
        ValueError: If the folder lacks weights of its model.
    """
    model_folder = folder if base is None else base
    if trust_remote_code:
        import_remote_code(model_folder)
    model, loading = getattr(transformers, auto_class).from_pretrained(
        model_folder, dtype="auto", trust_remote_code=trust_remote_code, output_loading_info=True
    )
    if loading["missing_keys"]:
        raise ValueError(f"the weights in {model_folder} lack {', '.join(sorted(loading['missing_keys']))}")
    if base is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder)
    model.eval()
    # a bare encoder takes no input of a decoder
    names = [*inspect.signature((model if base is None else model.get_base_model()).forward).parameters]
    outputs = _model_outputs(model, names, inputs)
    processing_class = _processing_class(Path(folder), trust_remote_code)
    if processing_class is not None:
        tokenizer = getattr(processing_class, "tokenizer", processing_class)
        outputs["tokens"] = torch.tensor(tokenizer(PROBE)["input_ids"])
    if "image" in inputs and isinstance(processing_class, ProcessorMixin):
        seen = dict(processing_class(**_image_and_text(processing_class, inputs["image"])))
        made = _model_outputs(model, names, {**seen, "decoder_input_ids": inputs["decoder_input_ids"][:1]})
        outputs |= {f"image {name}": value for name, value in (seen | made).items()}
    return outputs


def _processing_class(folder: Path, trust_remote_code: bool) -> Any:
    if (folder / "processor_config.json").exists():
        return AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if (folder / "tokenizer_config.json").exists():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    return None


def _image_and_text(processor: Any, image: torch.Tensor) -> dict[str, Any]:
    return {"images": image.numpy(), "text": f"{processor.image_token}{PROBE}", "return_tensors": "pt"}


def _model_outputs(model: Any, names: list[str], inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns what a model makes of those inputs that it takes by these names."""
    taken = {name: inputs[name] for name in names if name in inputs}
    taken = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in taken.items()}
    with torch.no_grad():
        outputs = {"output": model(**taken)[0]}
    if model.can_generate():
        prompt = {name: value for name, value in taken.items() if name != "decoder_input_ids"}
        outputs["generated"] = model.generate(**prompt, max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1)
    return outputs


def import_remote_code(folder: str) -> None:
    """Imports every class that the configuration of a folder names: also those that loading one model does not use."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    pipelines = [task["impl"] for task in getattr(config, "custom_pipelines", {}).values()]
    for reference in [*getattr(config, "auto_map", {}).values(), *pipelines]:
        get_class_from_dynamic_module(reference, folder)


class _NotInstalled:
    """Hides this package from the process, however it is installed."""

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        if name.split(".")[0] == "encdec_slm":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _main(arguments_file: str, inputs_file: str, outputs_file: str) -> None:
    sys.meta_path.insert(0, _NotInstalled())
    arguments = json.loads(Path(arguments_file).read_text(encoding="utf-8"))
    torch.set_num_threads(arguments.pop("num_threads"))
    outputs = folder_outputs(inputs=load_file(inputs_file), **arguments)
    save_file({name: tensor.contiguous() for name, tensor in outputs.items()}, outputs_file)


if __name__ == "__main__":
    _main(*sys.argv[1:])
