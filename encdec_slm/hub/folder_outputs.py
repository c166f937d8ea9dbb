"""What a model folder computes: a function here, and a script for a process that does not have this package.

The script therefore imports nothing of ours. Its arguments are a file with those of `folder_outputs` in JSON, the file
of the inputs and the file to write.
"""

import inspect
import json
import sys
from pathlib import Path
from types import ModuleType

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer
from transformers.dynamic_module_utils import get_class_from_dynamic_module


PROBE = "Write what you would answer to 3 plain words."
NEW_TOKENS = 4


def folder_outputs(
    folder: str, inputs: dict[str, torch.Tensor], *, auto_class: str, base: str | None, trust_remote_code: bool
) -> dict[str, torch.Tensor]:
    """Returns what a folder makes of fixed inputs; equal folders give equal tensors.

    Args:
        folder: Folder of a model, or of an adapter.
        inputs: `input_ids`, `attention_mask` and, for a model with a decoder, `decoder_input_ids`.
        auto_class: Name of the Auto class that loads the model.
        base: Folder of the model that the adapter in `folder` is for.
        trust_remote_code: Whether the code in the folder is run; all of it is then imported.

    Returns:
        `output`, the first that the model gives (logits, or the states of a bare encoder), `generated` where the
        model generates, and `tokens` of a probe text where there is a tokenizer.

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
    taken = inspect.signature((model if base is None else model.get_base_model()).forward).parameters
    with torch.no_grad():
        outputs = {"output": model(**{name: value for name, value in inputs.items() if name in taken})[0]}
    if model.can_generate():
        prompt = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        outputs["generated"] = model.generate(**prompt, max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1)
    if (Path(folder) / "tokenizer_config.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        outputs["tokens"] = torch.tensor(tokenizer(PROBE)["input_ids"])
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
