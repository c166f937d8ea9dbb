r"""Freezing parts of any model, and learning rates of their own for others.

A parameter is named by regular expressions that are searched for in its names (`re.search`). A tied parameter has
several names, and any of them will do.

Of this package's vision-text model `\.vision_tower\.` is the tower, `multi_modal_projector|image_newline` joins it to
the text model, and `^(?!.*(multi_modal_projector|image_newline))` is all the rest.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.training_args import OptimizerNames


def freeze(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    r"""Excludes the parameters from training that a pattern matches.

    Args:
        model: The model; its parameters no longer require gradients where a pattern matches.
        patterns: Regular expressions, such as `r"^model\.encoder\."` or `"embed_tokens"`. A tied parameter is frozen
            wherever it is used.

    Returns:
        The names of the frozen parameters, each once.

    Raises:
        ValueError: If a pattern matches nothing, or all parameters would be frozen.
    """
    parameters = _names_of_parameters(model)
    frozen: dict[nn.Parameter, str] = {}
    for pattern in patterns:
        matched = [parameter for parameter, names in parameters.items() if _matches(pattern, names)]
        if not matched:
            raise ValueError(f"no parameter has a name with {pattern!r} in it; {_some_names(parameters)}")
        frozen |= {parameter: parameters[parameter][0] for parameter in matched}
    if not any(parameter.requires_grad for parameter in parameters.keys() - frozen.keys()):
        raise ValueError(f"the patterns {list(patterns)} leave no parameter to be trained: freeze fewer of them")
    for parameter in frozen:
        parameter.requires_grad_(False)
    return list(frozen.values())


def parameter_groups(
    model: nn.Module, *, learning_rate: float, weight_decay: float = 0.0, rates: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Returns the trainable parameters in groups for an optimizer, those with the plain learning rate first.

    As in the `Trainer`, biases and norms do not decay.

    Args:
        model: The model.
        learning_rate: Of the parameters that no pattern matches.
        weight_decay: Of the parameters that decay.
        rates: Multipliers of the learning rate by pattern. The first pattern that matches a parameter counts.

    Raises:
        ValueError: If a pattern is the first to match for no trainable parameter, or a multiplier is not positive.
    """
    rates = rates or {}
    for pattern, rate in rates.items():
        if rate <= 0:
            raise ValueError(f"the multiplier of {pattern!r} is {rate}, but it must be positive; `freeze` for none")
    # the rule of the library, which asks the model only
    decays = set(Trainer.get_decay_parameter_names(cast(Trainer, None), model))
    parameters = {
        parameter: names for parameter, names in _names_of_parameters(model).items() if parameter.requires_grad
    }
    groups: dict[tuple[str | None, bool], list[nn.Parameter]] = {}
    for key in (None, *rates):
        groups |= {(key, True): [], (key, False): []}
    for parameter, names in parameters.items():
        first = next((pattern for pattern in rates if _matches(pattern, names)), None)
        groups[first, names[0] in decays].append(parameter)
    for pattern in rates:
        if not groups[pattern, True] and not groups[pattern, False]:
            raise ValueError(
                f"no trainable parameter has a name with {pattern!r} in it that no pattern before it matches; "
                f"{_some_names(parameters)}"
            )
    return [
        {
            "params": members,
            "lr": learning_rate * (1.0 if pattern is None else rates[pattern]),
            "weight_decay": weight_decay if decaying else 0.0,
        }
        for (pattern, decaying), members in groups.items()
        if members
    ]


def build_optimizer(
    model: PreTrainedModel, args: TrainingArguments, rates: Mapping[str, float]
) -> torch.optim.Optimizer:
    """Returns the optimizer that `args` ask for, with learning rates by pattern.

    For `Trainer(optimizers=(build_optimizer(...), None))`, which creates the scheduler that `args` ask for, and with
    it scales all rates alike.

    Args:
        model: The model, whose parameters are frozen already where they shall be.
        args: Arguments of the training.
        rates: As in `parameter_groups`.

    Raises:
        ValueError: If `args.optim` is an optimizer that makes groups of its own, and as `parameter_groups`.
    """
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    plain = isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)
    if not plain or options.keys() & {"params", "model", "optimizer_dict"}:
        raise ValueError(
            f"the optimizer {OptimizerNames(args.optim).value} makes parameter groups of its own and cannot have "
            "learning rates by pattern: choose another, such as adamw_torch, or leave the multipliers out"
        )
    groups = parameter_groups(model, learning_rate=args.learning_rate, weight_decay=args.weight_decay, rates=rates)
    return cast(torch.optim.Optimizer, optimizer_class(groups, **options))


def parse_rates(texts: Iterable[str]) -> dict[str, float]:
    """Returns multipliers of the learning rate by pattern, as `parameter_groups` takes them.

    Args:
        texts: Each of the form `REGEX=FACTOR`.

    Raises:
        ValueError: If one is not.

    Example:
        >>> parse_rates(["encoder_attn=10", "embed_tokens=0.1"])
        {'encoder_attn': 10.0, 'embed_tokens': 0.1}
    """
    rates = {}
    for text in texts:
        pattern, _, factor = text.rpartition("=")
        try:
            rates[pattern] = float(factor)
        except ValueError:
            raise ValueError(f"{text!r} is not of the form REGEX=FACTOR, such as encoder_attn=10") from None
    if "" in rates:
        raise ValueError("a learning rate multiplier has no pattern: write REGEX=FACTOR, such as encoder_attn=10")
    return rates


def _names_of_parameters(model: nn.Module) -> dict[nn.Parameter, list[str]]:
    """Returns all names of each parameter, the one that `named_parameters` has first."""
    found: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(parameter, []).append(name)
    return found


def _matches(pattern: str, names: Iterable[str]) -> bool:
    try:
        return any(re.search(pattern, name) for name in names)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


def _some_names(parameters: Mapping[nn.Parameter, list[str]]) -> str:
    names = [names[0] for names in parameters.values()]
    return f"there are {len(names)} parameters, such as {', '.join(names[:: max(len(names) // 4, 1)][:5])}"
