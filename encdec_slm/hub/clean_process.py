"""Does a folder work for others? It is used in a fresh process that cannot import this package.

There the code in the folder runs, as on the machine of somebody who has Transformers alone, and what it computes must
be what the installed classes compute.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from encdec_slm.hub import folder_outputs as script
from encdec_slm.models.configuration_encdec_slm_vision import EncDecSLMVisionConfig


# All that the process is given of the environment: enough to find its libraries and to compute alike. No token is.
ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "LANG", "LC_ALL")
ENVIRONMENT_PREFIXES = ("OMP_", "MKL_", "KMP_", "ONEDNN_", "DNNL_", "ATEN_", "TORCH_")
LONGEST_ERROR = 600
# height, width and channels: neither square nor of any tower's size
PROBE_IMAGE = (90, 130, 3)


def check_in_clean_process(
    folder: Path, *, source: Path, auto_class: str = "AutoModelForSeq2SeqLM", base: Path | None = None
) -> None:
    """Checks that a folder works without this package, exactly as its source does with it.

    The source is loaded here, with the installed classes and never with code of its own; the folder is loaded with
    `trust_remote_code=True` in another process, without this package, network and token. Each is loaded once.

    Args:
        folder: The folder that others are to get.
        source: Folder of the same model, as it is used here.
        auto_class: Name of the Auto class that loads the model.
        base: Folder of the base model, if the folders hold an adapter.

    Raises:
        ValueError: If the folder cannot be used there (with the last lines that the process said), or what it computes
            differs in one bit.
    """
    inputs = probe_inputs(base or source)
    arguments: dict[str, Any] = {"auto_class": auto_class, "base": None if base is None else str(base)}
    # one after the other: the memory of one model is enough
    expected = script.folder_outputs(str(source), inputs, trust_remote_code=False, **arguments)
    found = _outputs_in_clean_process(folder, inputs, arguments)
    if expected["output"].isnan().any():
        raise ValueError(f"the model in {source} computes NaN: train or convert it again")
    for name, value in expected.items():
        _refuse_difference(name, value, found.get(name))


def probe_inputs(folder: Path) -> dict[str, torch.Tensor]:
    """Returns random input for the model in a folder, always the same: two rows, one of them padded, and an image."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    vocab_size = config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(0)
    input_ids, decoder_input_ids = (
        torch.randint(vocab_size, (2, length), generator=generator, device="cpu") for length in (8, 5)
    )
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 5:] = 0
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "decoder_input_ids": decoder_input_ids}
    if isinstance(config, EncDecSLMVisionConfig) and config.image_token_id is not None:
        # these rows have no image
        input_ids[input_ids == config.image_token_id] = (config.image_token_id + 1) % vocab_size
        inputs["image"] = torch.randint(256, PROBE_IMAGE, generator=generator, dtype=torch.uint8, device="cpu")
    return inputs


def _outputs_in_clean_process(
    folder: Path, inputs: dict[str, torch.Tensor], arguments: dict[str, Any]
) -> dict[str, torch.Tensor]:
    with TemporaryDirectory(prefix="encdec-slm-check-") as name:
        room = Path(name)
        save_file(inputs, room / "inputs.safetensors")
        # sums of floats depend on how they are split
        arguments = {
            **arguments,
            "folder": str(folder),
            "trust_remote_code": True,
            "num_threads": torch.get_num_threads(),
        }
        (room / "arguments.json").write_text(json.dumps(arguments), encoding="utf-8")
        files = [str(room / name) for name in ("arguments.json", "inputs.safetensors", "outputs.safetensors")]
        done = subprocess.run(
            # -P: the folder of the script, which is a part of this package, is not on the path
            [sys.executable, "-P", script.__file__, *files],
            cwd=room,
            env=_environment(room),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise ValueError(
                "the model cannot be used where encdec_slm is not installed: "
                f"{error_of(done.stderr) or f'the process ended with {done.returncode}'}"
            )
        return load_file(room / "outputs.safetensors")


def _environment(room: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ENVIRONMENT or name.startswith(ENVIRONMENT_PREFIXES)
    }
    # an empty home has no login, and no code that was loaded before
    return {
        **kept,
        "HOME": str(room),
        "HF_HOME": str(room / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def error_of(stderr: str) -> str:
    """Returns the message that a Python process ended with, without the traceback, in one line and not too long."""
    lines = [line.rstrip() for line in stderr.splitlines() if line.strip()]
    traceback = [number for number, line in enumerate(lines) if line.startswith("  ")]
    message = " ".join(" ".join(lines[traceback[-1] + 1 :] if traceback else lines[-1:]).split())
    return message if len(message) <= LONGEST_ERROR else f"{message[:LONGEST_ERROR]}..."


def _refuse_difference(name: str, expected: torch.Tensor, found: torch.Tensor | None) -> None:
    if found is None or found.shape != expected.shape or found.dtype != expected.dtype:
        raise ValueError(
            f"without encdec_slm the model gives {_kind_of(found)} as {name}, with it {_kind_of(expected)}"
        )
    if not torch.equal(expected, found):
        difference = (expected.double() - found.double()).abs().max().item()
        raise ValueError(
            f"without encdec_slm the {name} of the model differs by up to {difference:.3g}: the code that would be "
            "sent is not that of the installed version"
        )


def _kind_of(tensor: torch.Tensor | None) -> str:
    return "nothing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} of {tuple(tensor.shape)}"
