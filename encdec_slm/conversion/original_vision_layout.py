"""What the tensors of the original's vision checkpoint are called beside those of its text model, and what by us."""

from collections.abc import Mapping

import torch

from encdec_slm.conversion.original_layout import FLOATING, LM_HEAD


# the original's wrapper holds the library's model, which holds another in the releases of its time
TOWER = "vision_tower.vision_tower.vision_model."
OUR_TOWER = "model.encoder.vision_tower."
OUR_HEAD_BIAS = "lm_head.bias"
OUR_NEWLINE = "model.encoder.image_newline.weight"
# ours by the original's
JOINTS = {
    "mm_projector.0.weight": "model.encoder.multi_modal_projector.linear_1.weight",
    "mm_projector.0.bias": "model.encoder.multi_modal_projector.linear_1.bias",
    "mm_projector.2.weight": "model.encoder.multi_modal_projector.linear_2.weight",
    "mm_projector.2.bias": "model.encoder.multi_modal_projector.linear_2.bias",
    "image_newline": OUR_NEWLINE,
    "lm_head.bias": OUR_HEAD_BIAS,
}


def split_text_from_vision(
    tensors: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Returns the tensors of the original's text model and all others.

    Raises:
        ValueError: If there are no others, as in a text checkpoint.
    """
    text = {name: tensor for name, tensor in tensors.items() if name.startswith("transformer.") or name == LM_HEAD}
    vision = {name: tensor for name, tensor in tensors.items() if name not in text}
    if not any(name.startswith(("mm_projector.", TOWER)) for name in vision):
        raise ValueError(
            "the checkpoint has neither a vision tower nor a projector: this is a text checkpoint, which "
            "`encdec-slm convert original` converts"
        )
    return text, vision


def has_tower(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether a checkpoint has any weight of a vision tower."""
    return any(name.startswith(TOWER) for name in tensors)


def tower_tensors(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the tensors of a vision model of the library by the names that they would have in the original."""
    return {_original_name(name): tensor for name, tensor in state_dict.items()}


def _original_name(name: str) -> str:
    # releases of Transformers differ in whether its vision model holds another one
    return TOWER + name.removeprefix("vision_model.")


def to_our_vision_state_dict(
    tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size]
) -> dict[str, torch.Tensor]:
    """Returns the tensors of tower, projector, newline and the head's bias by our names.

    Args:
        tensors: Those of the original that are not its text model's.
        shapes: Of every tensor of our model.

    Raises:
        ValueError: If tensors are missing, unknown, of the wrong shape, or not floating point; names all of them.
    """
    tower = {name.removeprefix(OUR_TOWER): name for name in shapes if name.startswith(OUR_TOWER)}
    layout = JOINTS | {_original_name(name): target for name, target in tower.items()}
    problems = []
    if missing := [name for name in layout if name not in tensors]:
        problems.append(f"missing {', '.join(missing)}")
    if unknown := [name for name in tensors if name not in layout]:
        problems.append(f"unknown {', '.join(unknown)}")
    ours = {}
    for name in tensors.keys() & layout.keys():
        target, tensor = layout[name], tensors[name]
        # ours is an embedding of one row
        tensor = tensor[None] if target == OUR_NEWLINE else tensor
        if tensor.shape != shapes[target]:
            problems.append(f"{name} has the shape {tuple(tensor.shape)} instead of {tuple(shapes[target])}")
        if tensor.dtype not in FLOATING:
            problems.append(f"{name} has the dtype {tensor.dtype}, which is not a floating point type")
        ours[target] = tensor
    if problems:
        raise ValueError(
            "the weights do not fit the configuration of model and vision tower: " + "; ".join(sorted(problems))
        )
    return ours
