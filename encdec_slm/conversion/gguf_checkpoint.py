"""GGUF files of decoder-only models: found, and held against what the library's reader understands of them."""

import re
from importlib.util import find_spec
from os import PathLike
from typing import Any

from transformers.utils.import_utils import is_gguf_available


# what the reader knows of a file of the Llama family; anything else it leaves out without a word
KNOWN_TENSORS = re.compile(
    r"(token_embd|output_norm|output)\.weight"
    r"|blk\.\d+\.(attn_norm|ffn_norm|attn_q|attn_k|attn_v|attn_output|attn_q_norm|attn_k_norm|ffn_gate|ffn_up|ffn_down)"
    r"\.weight"
)
ATTENTION_BIASES = re.compile(r"blk\.\d+\.attn_[qkv]\.bias")
ARCHITECTURES_WITH_BIASES = ("qwen2",)
TOKENS = "tokenizer.ggml.tokens"


def require_gguf(gguf_file: str) -> None:
    """Checks that GGUF files can be read here.

    Raises:
        ImportError: If a package is missing.
    """
    packages = {"gguf": is_gguf_available(), "accelerate": find_spec("accelerate") is not None}
    missing = [name for name, is_there in packages.items() if not is_there]
    if missing:
        raise ImportError(f"reading {gguf_file} needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    try:
        from transformers import GgufConfig  # noqa: F401
    except ImportError as error:
        raise ImportError(f"reading {gguf_file} needs a later Transformers: pip install -U transformers") from error


def read_gguf_header(path: str | PathLike[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the metadata of a GGUF file and the names of its tensors. Of arrays only the length is read.

    Raises:
        ValueError: If it is no GGUF file, or one that ends too early.
    """
    from transformers.integrations.gguf.reader import read_gguf_metadata

    try:
        return read_gguf_metadata(str(path))
    # the reader stumbles over damaged bytes in many ways
    except Exception as error:
        raise ValueError(f"{path} is no GGUF file, or damaged: {error}") from error


def check_gguf(path: str | PathLike[str]) -> None:
    """Checks that the library's reader carries all that a GGUF file of the Llama family says.

    The reader drops what it does not know, such as the frequencies of Llama 3's rotary embeddings: the model would
    then compute something else.

    Raises:
        ValueError: If something of the file would be lost, or if it is damaged.
    """
    metadata, tensors = read_gguf_header(path)
    architecture = metadata["general.architecture"]
    lost = [name for name in tensors if not KNOWN_TENSORS.fullmatch(name)]
    if architecture in ARCHITECTURES_WITH_BIASES:
        lost = [name for name in lost if not ATTENTION_BIASES.fullmatch(name)]
    if metadata.get(f"{architecture}.rope.scaling.type", "none") != "none":
        lost.append(f"{architecture}.rope.scaling")
    if f"{architecture}.attention.sliding_window" in metadata:
        lost.append(f"{architecture}.attention.sliding_window")
    if lost:
        shown = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        raise ValueError(
            f"Transformers' reader of GGUF files would leave out {shown} of {path}, so that the model would compute "
            "something else: convert the safetensors checkpoint that the file was made from"
        )


def has_tokenizer(path: str | PathLike[str]) -> bool:
    """Returns whether a GGUF file holds a tokenizer, and not only the number of its tokens."""
    return TOKENS in read_gguf_header(path)[0]


def dequantize_gguf(gguf_file: str) -> dict[str, Any]:
    """Returns the options of `from_pretrained` that unpack the weights of a GGUF file."""
    from transformers import GgufConfig

    return {"quantization_config": GgufConfig(gguf_file=gguf_file, dequantize=True)}
