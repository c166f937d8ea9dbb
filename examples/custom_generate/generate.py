"""Decoding with a memory of pairs: what the model expects next, corrected by what came next where it once stood alike.

Transformers finds this file as `custom_generate/generate.py` in the folder of a model that is loaded with
`trust_remote_code=True`, and calls it for `model.generate`. Beside it lies the memory, which `remember_pairs.py` has
made.

After "Nearest Neighbor Machine Translation" (Khandelwal et al., arXiv 2010.00710). Two things are other than there: as
in "Simple and Scalable Nearest Neighbor Machine Translation" (Dai et al., 2023) an answer looks into the pairs alone
whose sources are most like its own; and how much the memory says depends on how near it is.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.utils import cached_file


FOLDER = "custom_generate"
TENSORS, SETTINGS = f"{FOLDER}/memory.safetensors", f"{FOLDER}/memory.json"
# kinds of generation in which a row of scores is not that of the next token of an answer
UNSUITED = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")


@dataclass(kw_only=True)
class Memory:
    """What a model's states were in pairs, token by token.

    Attributes:
        sources: The mean encoder state of each pair, of length one, shape `(pairs, hidden_size)`.
        states: What the head read before each token of the targets, pair after pair, shape `(tokens, hidden_size)`.
        tokens: Those tokens, shape `(tokens,)`.
        ends: Where the tokens of each pair end, shape `(pairs,)`.
        pairs: In how many an answer looks.
        neighbours: How many tokens have a say.
        temperature: The squared distance at which a say has fallen to 1/e.
        prior: How much the model says, where a remembered token at no distance says 1.
    """

    sources: torch.Tensor
    states: torch.Tensor
    tokens: torch.Tensor
    ends: torch.Tensor
    pairs: int
    neighbours: int
    temperature: float
    prior: float

    def like(self, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns states and tokens of the pairs that are most like some sources, padded with a token of -1.

        Args:
            sources: As the memory's, in float32, shape `(batch, hidden_size)`.

        Returns:
            Shapes `(batch, most, hidden_size)` and `(batch, most)`.
        """
        near = (sources @ self.sources.T).topk(min(self.pairs, len(self.sources))).indices
        begins = torch.cat([self.ends.new_zeros(1), self.ends[:-1]])
        places = [torch.cat([torch.arange(begins[pair], self.ends[pair]) for pair in row]) for row in near]
        padded = torch.nn.utils.rnn.pad_sequence(places, batch_first=True, padding_value=-1).to(self.tokens.device)
        tokens = self.tokens[padded].masked_fill(padded < 0, -1)
        return self.states[padded].float(), tokens


class NearestTokens(LogitsProcessor):
    """Adds what a memory says to what a model says: its probabilities, as a prior, and remembered tokens, as counts.

    A token at squared distance `d` counts `exp(-d / temperature)`, and all that the model says counts `prior`.

    Args:
        memory: Says how.
        states: Of pairs that an answer looks in; see `Memory.like`.
        tokens: Theirs.
        read: What the head read last, under `states`; see `states_of_the_head`.
    """

    def __init__(
        self, memory: Memory, states: torch.Tensor, tokens: torch.Tensor, read: dict[str, torch.Tensor]
    ) -> None:
        self.memory, self.read = memory, read
        self.states = states.transpose(1, 2)
        is_padding = (tokens < 0)[:, None]
        self.tokens = tokens[:, None].masked_fill(is_padding, 0)
        # what there is none of is infinitely far away
        self.lengths = states.square().sum(dim=2)[:, None].masked_fill(is_padding, torch.inf)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        """Returns log-probabilities, shape `(rows, vocab_size)`; the rows of an answer lie one after the other."""
        batch, _, most = self.tokens.shape
        now = self.read["states"][:, -1].float().view(batch, len(scores) // batch, -1)
        length = now.square().sum(dim=2, keepdim=True)
        # as products: `torch.cdist` would copy all states at each token
        distances = torch.baddbmm(self.lengths, now, self.states, alpha=-2).add_(length).clamp_(min=0)
        nearest = distances.topk(min(self.memory.neighbours, most), largest=False)
        counts = (-nearest.values / self.memory.temperature).exp().flatten(0, 1)
        tokens = self.tokens.expand_as(distances).gather(2, nearest.indices).flatten(0, 1)
        prior = self.memory.prior * scores.softmax(dim=-1, dtype=torch.float32)
        said = prior.scatter_add(1, tokens, counts) / (self.memory.prior + counts.sum(1, keepdim=True))
        # what other processors forbid stays so
        return said.log().masked_fill(scores.isneginf(), -torch.inf)


@contextmanager
def states_of_the_head(model: PreTrainedModel) -> Iterator[dict[str, torch.Tensor]]:
    """Gives a dictionary in which, as `states`, always lies what the model's head has read last."""
    read: dict[str, torch.Tensor] = {}

    def keep(_: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        (read["states"],) = arguments

    hook = model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        yield read
    finally:
        hook.remove()


def mean_states(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Returns the mean state of each source, of length one, shape `(batch, hidden_size)`.

    Args:
        states: The encoder's, shape `(batch, source_length, hidden_size)`.
        attention_mask: Tells tokens from padding, shape `(batch, source_length)`.
    """
    total = (states.float() * attention_mask[..., None]).sum(dim=1)
    return torch.nn.functional.normalize(total, dim=-1)


def memory_of(model: PreTrainedModel) -> Memory:
    """Returns the memory that lies beside a model, which is read once for a device.

    Raises:
        OSError: If there is none.
    """
    found: Memory | None = model.__dict__.get("_memory")
    if found is None or found.states.device != model.device:
        place: dict[str, Any] = {"revision": getattr(model.config, "_commit_hash", None)}
        tensors, settings = (str(cached_file(model.name_or_path, name, **place)) for name in (TENSORS, SETTINGS))
        given = load_file(tensors, device=str(model.device)) | json.loads(Path(settings).read_text(encoding="utf-8"))
        found = Memory(**{field.name: given[field.name] for field in fields(Memory)})
        model.__dict__["_memory"] = found
    return found


@torch.no_grad()
def generate(inputs: torch.Tensor | None = None, *, model: PreTrainedModel, **options: Any) -> Any:
    """Does what `model.generate` does, with the model's memory.

    Args:
        inputs: Token ids, also by the name of `input_ids`.
        model: With a memory beside it.
        options: Of `generate`.

    Raises:
        ValueError: If there are no token ids, or more than the next token is scored at once.
        OSError: If there is no memory.
    """
    input_ids = options.pop("input_ids", inputs)
    if input_ids is None:
        raise ValueError("a memory is asked with token ids, but neither inputs nor input_ids are given: give one")
    if unsuited := [name for name in UNSUITED if options.get(name) is not None]:
        raise ValueError(
            f"a memory answers token by token, which does not go with {', '.join(unsuited)}: leave it out, or load "
            "the model with trust_remote_code=False to generate without its memory"
        )
    memory = memory_of(model)
    attention_mask = options.pop("attention_mask", None)
    if attention_mask is None:
        attention_mask = (input_ids != model.config.pad_token_id).long()
    encoder_outputs = options.pop("encoder_outputs", None)
    if encoder_outputs is None:
        encoder_outputs = model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)
    remembered = memory.like(mean_states(encoder_outputs[0], attention_mask))
    with states_of_the_head(model) as read:
        processors = [*(options.pop("logits_processor", None) or ()), NearestTokens(memory, *remembered, read)]
        return type(model).generate(
            model,
            input_ids,
            attention_mask=attention_mask,
            encoder_outputs=encoder_outputs,
            logits_processor=LogitsProcessorList(processors),
            **options,
        )
