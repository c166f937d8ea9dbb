"""A teacher's predictions must not depend on the padding of a batch: found out before the training starts."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from encdec_slm.distillation.alignment import TeacherInputs, read_after_prompt
from encdec_slm.distillation.heads import language_model
from encdec_slm.distillation.image_text import ImageTextReader, ReadText, image_token, marks_images
from encdec_slm.distillation.images import RowImages
from encdec_slm.distillation.teachers import Teacher, is_quantized


# read if no prompt of the data is given: so many tokens, however many the tokenizer makes of it
MOST_TOKENS = 24
SAMPLE = "A week has seven days. Which day comes after Saturday? After Saturday comes Sunday, and then Monday."
# height and width in pixels
IMAGE_SIZES = ((48, 96), (96, 48))
# the largest difference between two log-probabilities in float32
MOST_NATS = 1e-3
# the largest Kullback-Leibler divergence at a position, in nats, where weights have 16 bits or fewer: rounding changes
# the log-probabilities of unlikely tokens by tenths of a nat. With SmolLM2-135M in bfloat16 it makes a divergence of
# 0.0025, and a mask that is ignored one of 1.5
MOST_DIVERGENCE = 0.05


@torch.no_grad()
def check_teacher(teacher: Teacher, prompt: Sequence[int] | None = None, *, target_length: int = 4) -> None:
    """Reads a text and its second half, each alone and all in one batch padded on the left, and compares.

    A teacher that reads images reads both with images of unequal sizes too. Then the last token of each text is
    another one: what is said before it must not change.

    Args:
        teacher: Asked as in the training, by `predict`; with its first adapter if it has some.
        prompt: Token ids of a text, best one as long as those of the data; a short one is made up if not given.
        target_length: How many tokens at the end of each text are predicted.

    Raises:
        ValueError: If the teacher's predictions change by more than rounding, or the text is too short.
    """
    ids = teacher.tokenizer(SAMPLE)["input_ids"][:MOST_TOKENS] if prompt is None else list(prompt)
    if len(ids) - len(ids) // 2 <= target_length:
        raise ValueError(
            f"a text of {len(ids)} tokens is too short to predict {target_length} of its second half: give a longer "
            "prompt"
        )
    texts = [ReadText(ids=torch.tensor(part)) for part in (ids, ids[len(ids) // 2 :])]
    if teacher.reader is not None and marks_images(teacher.reader.processor):
        texts += _with_images(teacher.reader, ids)
    together = _log_probs(teacher, _inputs(teacher, texts, target_length))
    alone = torch.cat([_log_probs(teacher, _inputs(teacher, [text], target_length)) for text in texts])
    difference, most, unit = _difference(teacher, alone, together)
    # NaN is a difference too
    if not difference <= most:
        raise ValueError(
            f"what the teacher ({type(language_model(teacher.model)).__name__}) says about a row changes by "
            f"{difference:.2g} {unit} when the row is padded on the left, more than {most:g}: it does not obey "
            "attention_mask and position_ids, or its rotary scaling depends on the longest row of the batch. Load it "
            'with attn_implementation="eager", use a newer model class, or train with check_teacher=False on batches '
            "of rows of equal length"
        )
    inputs = _inputs(teacher, texts, target_length)
    changed = inputs.input_ids.clone()
    changed[:, -1] = next((i for i in ids if i != ids[-1]), teacher.pad_token_id)
    difference, most, unit = _difference(teacher, together, _log_probs(teacher, replace(inputs, input_ids=changed)))
    if not difference <= most:
        raise ValueError(
            f"what the teacher ({type(language_model(teacher.model)).__name__}) says about a token changes by "
            f"{difference:.2g} {unit} with a token that comes later, more than {most:g}: it reads prompt and target "
            "in both directions, and would know what it is to predict. Take a model whose every token reads only "
            "those before it"
        )


def _with_images(reader: ImageTextReader, ids: Sequence[int]) -> list[ReadText]:
    """Returns texts that begin with an image, a wide and a tall one."""
    tail = torch.tensor(ids)
    token = image_token(reader.processor)
    read = [reader(token, [_noise(*size)]) for size in IMAGE_SIZES]
    return [_continued(text, part) for text, part in zip(read, (tail, tail[len(tail) // 2 :]), strict=True)]


def _continued(text: ReadText, ids: torch.Tensor) -> ReadText:
    types = {name: F.pad(values, (0, len(ids))) for name, values in text.token_types.items()}
    return replace(text, ids=torch.cat([text.ids, ids]), token_types=types)


def _noise(height: int, width: int) -> np.ndarray:
    """Returns an image that is the same each time."""
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _inputs(teacher: Teacher, texts: Sequence[ReadText], target_length: int) -> TeacherInputs:
    """Returns what a teacher reads in one batch."""

    def padded(rows: Sequence[torch.Tensor], value: int) -> torch.Tensor:
        return pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side="left").to(teacher.device)

    ids = padded([text.ids for text in texts], teacher.pad_token_id)
    real = padded([torch.ones_like(text.ids) for text in texts], 0)
    names = dict.fromkeys(name for text in texts for name in text.token_types)
    types = {
        name: padded([text.token_types.get(name, torch.zeros_like(text.ids)) for text in texts], 0)[:, :-target_length]
        for name in names
    }
    return read_after_prompt(
        ids[:, :-target_length],
        real[:, :-target_length],
        ids[:, -target_length:],
        real[:, -target_length:],
        pad_token_id=teacher.pad_token_id,
        token_types=types,
        images=RowImages(tuple(text.images for text in texts)),
    )


def _log_probs(teacher: Teacher, inputs: TeacherInputs) -> torch.Tensor:
    """Returns what the teacher says about the targets, (batch, target, vocab)."""
    index = torch.zeros(len(inputs.input_ids), dtype=torch.long) if teacher.adapters else None
    return teacher.predict(inputs, index).logits().log_softmax(dim=-1)


def _difference(teacher: Teacher, first: torch.Tensor, second: torch.Tensor) -> tuple[float, float, str]:
    """Returns how far log-probabilities are from others, how far they may be, and the unit of both."""
    if _is_exact(teacher):
        return float(_largest_difference(first, second)), MOST_NATS, "in log-probability"
    return float(_divergence(first, second).max()), MOST_DIVERGENCE, "nats of KL divergence"


def _is_exact(teacher: Teacher) -> bool:
    below = language_model(teacher.model)
    return below.dtype in (torch.float32, torch.float64) and not is_quantized(below)


def _largest_difference(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    # both may be -inf
    return torch.where(first == second, 0, first - second).abs().max()


def _divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first.exp() * torch.where(first == second, 0, first - second)).sum(dim=-1)
