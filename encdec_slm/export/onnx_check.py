"""Whether exported graphs compute what the model computes: logits of given targets, and tokens of greedy search."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from encdec_slm.export.onnx_engine import OnnxEngine
from encdec_slm.export.onnx_model import ORTEncDecSLM


LENGTHS = (24, 9, 17)
NEW_TOKENS = 16
# of the largest logit, where that is above 1
LARGEST_ERROR = 1e-4


def compare_with_source(source: Any, folder: Path, dtype: str, static_length: int | None = None) -> dict[str, Any]:
    """Returns how far the graphs in a folder are from the model: fields of `ExportReport`.

    The inputs are random tokens in rows of unequal lengths; where the graphs allow it they are a padded batch. The
    targets are read in two pieces, a prompt and then what follows.

    Args:
        source: The model in PyTorch, in float32.
        folder: What was written.
        dtype: Of the weights.
        static_length: Tokens of the graphs' only row, if they are static.

    Raises:
        ValueError: If graphs in float32 differ from the model.
    """
    engine = OnnxEngine(folder, threads=torch.get_num_threads())
    exported: Any = ORTEncDecSLM(source.config, engine, source.generation_config)
    errors, largest, equal = [], 1.0, []
    tokens = NEW_TOKENS if static_length is None else min(NEW_TOKENS, static_length)
    greedily: dict[str, Any] = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "num_beams": 1}
    for inputs in _inputs(source.config.vocab_size, static_length):
        targets, answers = (one.generate(**inputs, **greedily) for one in (source, exported))
        equal.append((answers == targets).float()[:, 1:].flatten())
        with torch.no_grad():
            expected = source(**inputs, decoder_input_ids=targets[:, :-1]).logits
        prompt = exported(**inputs, decoder_input_ids=targets[:, :4])
        rest = exported(decoder_input_ids=targets[:, 4:-1], past_key_values=prompt.past_key_values)
        errors.append((torch.cat((prompt.logits, rest.logits), dim=1) - expected).abs().flatten())
        largest = max(largest, expected.abs().max().item())
    error, agreement = torch.cat(errors), torch.cat(equal).mean().item()
    if dtype == "fp32" and (not error.max() <= LARGEST_ERROR * largest or agreement < 1):
        raise ValueError(
            f"the exported float32 graphs differ from the model: logits by {error.max():.2g} where at most "
            f"{LARGEST_ERROR * largest:.2g} is rounding, {100 * agreement:.1f} % of the greedy tokens are equal. "
            "Nothing was written; please report it with the model's config.json"
        )
    return {
        "max_logit_error": error.max().item(),
        "mean_logit_error": error.mean().item(),
        "equal_greedy_tokens": agreement,
    }


def _inputs(vocab_size: int, static_length: int | None) -> list[dict[str, torch.Tensor]]:
    random = np.random.default_rng(0)
    lengths = LENGTHS if static_length is None else [min(length, static_length) for length in LENGTHS]
    rows = [torch.from_numpy(random.integers(vocab_size, size=length)) for length in lengths]
    if static_length is not None:
        return [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in rows]
    batch = {
        "input_ids": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        "attention_mask": torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
    }
    return [batch]
