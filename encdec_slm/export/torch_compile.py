"""Decoding steps as machine code: the library's static cache and `torch.compile`, on a CPU too."""

from typing import Any

from transformers import CompileConfig


def compiled_steps(mode: str = "default") -> dict[str, Any]:
    """Returns the arguments of `generate` that compile its decoding step, for any model of the library.

    The library compiles the step by itself where a static cache is asked for, but on accelerators alone. The first
    answer takes as long as the compiler needs (a C++ compiler must be installed, for a CPU); later ones with as many
    inputs and the same lengths in all take the step as it was compiled. A beam search is not compiled, nor are layers
    of `encdec_slm.quantization.linear`, whose kernels the compiler cannot look into.

    Args:
        mode: As in `torch.compile`, such as `max-autotune-no-cudagraphs`.

    Example:
        >>> tokens = model.generate(**inputs, **compiled_steps())  # doctest: +SKIP
    """
    config: Any = CompileConfig(fullgraph=True, mode=mode, dynamic=False)
    # the library has no public name for this
    config._compile_all_devices = True
    return {"cache_implementation": "static", "compile_config": config}
