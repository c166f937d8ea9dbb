"""Whether exported graphs compute what the model computes: logits of given targets, and tokens of greedy search."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from encdec_slm.export.onnx_model import ORTEncDecSLM
from encdec_slm.export.onnx_vision_model import ORTEncDecSLMVision
from encdec_slm.models.configuration_encdec_slm_vision import EncDecSLMVisionConfig
from encdec_slm.models.image_tokens_encdec_slm import ImageLayout, image_layout


LENGTHS = (24, 9, 17)
NEW_TOKENS = 16
# of the largest logit, where that is above 1
LARGEST_ERROR = 1e-4


def compare_with_source(source: Any, folder: Path, dtype: str, static_length: int | None = None) -> dict[str, Any]:
    """Returns how far the graphs in a folder are from the model: fields of `ExportReport`.

    The inputs are random tokens in rows of unequal lengths; where the graphs allow it they are a padded batch. A model
    that sees reads random images of unequal sizes in all rows but one. The targets are read in two pieces, a prompt
    and then what follows.

    Args:
        source: The model in PyTorch, in float32.
        folder: What was written.
        dtype: Of the weights.
        static_length: Tokens of the graphs' only row, if they are static.

    Raises:
        ValueError: If graphs in float32 differ from the model.
    """
    runtime: type[Any] = ORTEncDecSLMVision if isinstance(source.config, EncDecSLMVisionConfig) else ORTEncDecSLM
    engine = runtime.engine_class(folder, threads=torch.get_num_threads())
    exported: Any = runtime(source.config, engine, source.generation_config)
    errors, largest, equal = [], 1.0, []
    tokens = NEW_TOKENS if static_length is None else min(NEW_TOKENS, static_length)
    greedily: dict[str, Any] = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "num_beams": 1}
    for inputs in _inputs(source.config, static_length):
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


def _inputs(config: Any, static_length: int | None) -> list[dict[str, torch.Tensor]]:
    random = np.random.default_rng(0)
    rows: list[dict[str, torch.Tensor]] = [
        {"input_ids": torch.from_numpy(random.integers(config.vocab_size, size=length))}
        for length in (LENGTHS if static_length is None else [min(length, static_length) for length in LENGTHS])
    ]
    if isinstance(config, EncDecSLMVisionConfig):
        rows = _with_images(rows, config, static_length)
    for row in rows:
        row["attention_mask"] = torch.ones_like(row["input_ids"])
    if static_length is not None:
        return [{**row, **{name: row[name][None] for name in ("input_ids", "attention_mask")}} for row in rows]
    return [_batch(rows)]


def _batch(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    batch = {
        name: torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True)
        for name in ("input_ids", "attention_mask")
    }
    images = [row for row in rows if "pixel_values" in row]
    names = [name for name in ("pixel_values", "image_sizes") if images and name in images[0]]
    return {**batch, **{name: torch.cat([row[name] for row in images]) for name in names}}


def _with_images(
    rows: list[dict[str, torch.Tensor]], config: EncDecSLMVisionConfig, static_length: int | None
) -> list[dict[str, torch.Tensor]]:
    """Puts an image before the words of every row but one, unless a static graph has no room for it."""
    encoder: Any = config.encoder
    geometry, token = encoder.image_geometry, config.image_token_id
    # square, and wide: of two views and more where images have tiles
    sizes = {0: (geometry.image_size, geometry.image_size), 2: (geometry.image_size, 2 * geometry.image_size)}
    layouts: dict[int, ImageLayout] = {row: image_layout(*size, geometry) for row, size in sizes.items()}
    most = 1 + max(layout.num_tiles for layout in layouts.values())
    random = torch.Generator().manual_seed(0)
    found = []
    for i, row in enumerate(rows):
        words = row["input_ids"]
        words[words == token] = (token + 1) % config.vocab_size
        room = len(words) if static_length is None else static_length - (layouts[i].num_tokens if i in layouts else 0)
        if i not in layouts or room < 1:
            found.append({"input_ids": words})
            continue
        views = torch.randn(1, most, 3, geometry.image_size, geometry.image_size, generator=random)
        images = {"pixel_values": views, "image_sizes": torch.tensor([sizes[i]])}
        # without tiles an image is one view, and its size is of no interest
        images = images if geometry.grid_pinpoints else {"pixel_values": views[:, 0]}
        image_tokens = words.new_full((layouts[i].num_tokens,), token)
        found.append({"input_ids": torch.cat((image_tokens, words[:room])), **images})
    return found
