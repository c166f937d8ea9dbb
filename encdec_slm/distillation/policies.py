"""Where targets come from that are not in the data: samples of the student (on-policy) and samples of the teacher.

A sample is a function of the weights and of the row's seed, and the latter of the training's seed, the step and the
row's source (`row_seeds`). Neither the rest of the batch nor any global random state has a part in it: one batch of 4,
2 of 2 and 4 of 1 draw the same samples (up to rounding), and so does a training that was resumed.

It is drawn by the Gumbel-max trick: argmax of log p + g is a draw from p if the g are independent Gumbel numbers, so
that greedy decoding with `GumbelNoise` behind the processors of temperature, top-k and top-p is sampling. The noise is
counter-based: that of a token is a function of the row's seed, the position and the token's id. It is computed for all
rows together where the logits are, without a generator per row, a copy between devices or a state to be saved.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from encdec_slm.distillation.alignment import exchange_ids, labels_of_samples


# of SplitMix64, as signed numbers of 64 bits
GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - 2**64
FIRST_MULTIPLIER = 0xBF58476D1CE4E5B9 - 2**64
SECOND_MULTIPLIER = 0x94D049BB133111EB - 2**64


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How targets are sampled: from softmax(logits / temperature), cut to the likeliest tokens.

    Args:
        max_new_tokens: Longest target. One that has not ended by then has no end-of-sequence token.
        temperature: Below 1, likely tokens are taken more often than the model says; above, less often.
        top_k: How many of the likeliest tokens are left to choose from; 0 for all.
        top_p: Of those, the fewest that have this probability together; 1 for all.
        shared_ids: Only ids below this are sampled: those that the other model can read too (see `count_shared_ids`).
            All if not given.
        exchange: Two ids that change places in what is sampled: what counts is what an id becomes.
        suppressed_ids: Ids that are not sampled: those that stand for images, of which an answer has none.

    Raises:
        ValueError: If there is nothing to sample from.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    shared_ids: int | None = None
    exchange: tuple[int, int] | None = None
    suppressed_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}, but a sample has at least 1 token")
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature is {self.temperature}, but it is positive and finite: take top_k = 1 for the likeliest "
                "token"
            )
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}, but it is the number of tokens to choose from, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, but it is a probability above 0, or 1 for all tokens")
        if self.shared_ids is not None and self.shared_ids < 1:
            raise ValueError(f"shared_ids is {self.shared_ids}, but at least 1 id is needed, or None for all")

    def processors(self, seeds: Sequence[int], *, prefix_length: int = 1) -> LogitsProcessorList:
        """Returns the processors that turn greedy decoding into sampling, in the order of `generate`.

        Args:
            seeds: One for each row.
            prefix_length: Columns of tokens before the first one that is sampled.
        """
        processors = LogitsProcessorList()
        if self.shared_ids is not None:
            processors.append(OnlySharedIds(self.shared_ids, self.exchange))
        if self.suppressed_ids:
            processors.append(WithoutIds(self.suppressed_ids))
        if self.temperature != 1:
            processors.append(TemperatureLogitsWarper(float(self.temperature)))
        if self.top_k:
            processors.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            processors.append(TopPLogitsWarper(self.top_p))
        processors.append(GumbelNoise(seeds, prefix_length=prefix_length))
        return processors


class GumbelNoise(LogitsProcessor):
    """Adds Gumbel noise to logits, so that the largest one is at a token drawn from their softmax.

    Args:
        seeds: One for each row.
        prefix_length: Columns of tokens before the first one that is sampled, which has position 0.
    """

    def __init__(self, seeds: Sequence[int], *, prefix_length: int = 1) -> None:
        self.seeds = torch.tensor(seeds, dtype=torch.long)
        self.prefix_length = prefix_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Returns the scores and the noise.

        Args:
            input_ids: What came before, of shape (batch, prefix + position).
            scores: Logits or log-probabilities of the next token, of shape (batch, vocab).

        Raises:
            ValueError: If there is not one seed for each row.
        """
        if len(self.seeds) != len(scores):
            raise ValueError(
                f"there are {len(self.seeds)} seeds for {len(scores)} rows: give one to each, and search with one beam"
            )
        self.seeds = self.seeds.to(scores.device)
        # output 0 of a row's generator is for `choose_rows`
        position = torch.full_like(self.seeds, input_ids.shape[1] - self.prefix_length + 1)
        tokens = torch.arange(scores.shape[1], device=scores.device)
        noise = _uniform(_splitmix64(_splitmix64(self.seeds, position).unsqueeze(1), tokens))
        noise = noise.log_().neg_().log_().neg_()
        return scores + noise.to(scores.dtype)


class OnlySharedIds(LogitsProcessor):
    """Leaves no probability to ids that are, after an exchange, `shared_ids` or above."""

    def __init__(self, shared_ids: int, exchange: tuple[int, int] | None = None) -> None:
        self.shared_ids = shared_ids
        self.exchange = exchange

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Returns scores of shape (batch, vocab)."""
        ids = exchange_ids(torch.arange(scores.shape[1], device=scores.device), self.exchange)
        return scores.masked_fill(ids >= self.shared_ids, -math.inf)


class WithoutIds(LogitsProcessor):
    """Leaves no probability to some ids; those that there are no scores for do not matter."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = tuple(ids)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Returns scores of shape (batch, vocab)."""
        ids = [i for i in self.ids if i < scores.shape[1]]
        return scores.index_fill(1, torch.tensor(ids, dtype=torch.long, device=scores.device), -math.inf)


def row_seeds(
    seed: int,
    step: int,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    images: Sequence[str] | None = None,
) -> list[int]:
    """Returns a number of 64 bits for each row: a hash of the seed, the step and the row's source without padding.

    Rows with the same source in the same step have the same number, and hence the same samples.

    Args:
        seed: Of the training.
        step: Of the optimiser: how many were done before. The batches that are accumulated for one belong to it.
        input_ids: Of shape (batch, source), padded on either side.
        attention_mask: Of the same shape, 0 for padding.
        images: What tells the images of each row from others, empty for a row without any: they are of the source.

    Raises:
        ValueError: If the shapes differ.
    """
    if input_ids.shape != attention_mask.shape:
        raise ValueError(
            f"input_ids and attention_mask have shapes {tuple(input_ids.shape)} and {tuple(attention_mask.shape)}, "
            "but the mask says of each id whether it is padding"
        )
    sources = [ids[real].tolist() for ids, real in zip(input_ids.cpu(), attention_mask.cpu().bool(), strict=True)]
    shown = [f" {row}" if row else "" for row in images or [""] * len(sources)]
    # Python's own hash is another one in each process
    digests = [
        hashlib.blake2b(f"{seed} {step} {source}{row}".encode(), digest_size=8).digest()
        for source, row in zip(sources, shown, strict=True)
    ]
    return [int.from_bytes(digest, "little", signed=True) for digest in digests]


def choose_rows(fraction: float, seeds: Sequence[int]) -> torch.Tensor:
    """Returns which rows are among the `fraction` that is sampled, of shape (batch,).

    It is a function of the row's seed, and independent of what is sampled for it. A row that is chosen for a fraction
    is chosen for any larger one: two kinds of samples without overlap are `choose_rows(first, seeds)` and what is in
    `choose_rows(first + second, seeds)` besides.

    Raises:
        ValueError: If the fraction is not between 0 and 1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"a fraction of {fraction} of the rows is to be sampled, but it is between 0 and 1")
    state = torch.tensor(seeds, dtype=torch.long)
    return _uniform(_splitmix64(state, torch.zeros_like(state))) < fraction


def sample_student(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    sampling: Sampling,
    seeds: Sequence[int],
    eos_token_ids: Sequence[int],
    others: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Returns targets that the student gives the sources: what it would say, without dropout.

    From the model's `generation_config` come the decoder's start token and nothing else: no forced or suppressed
    tokens, penalties, beams or lengths. They are for the user's answers; here the divergence is to see what the model
    itself finds likely. A BOS token that the model puts first, as BART and mBART do, is a target like others.

    The model is left as it was: each submodule in its own mode, and its generation settings. It decodes with a cache,
    also where the training has none because of gradient checkpointing. Unwrap it (DDP, PEFT) before.

    Args:
        model: An encoder-decoder.
        input_ids: Sources of shape (batch, source).
        attention_mask: Of the same shape, 0 for padding.
        sampling: How.
        seeds: One for each row; see `row_seeds`.
        eos_token_ids: Which tokens end a target.
        others: What else the model reads, by the names of its arguments: images.

    Returns:
        Labels of shape (batch, target), up to and including the first end and -100 after it; the target is the longest
        of the batch.

    Raises:
        ValueError: If there is not one seed for each row, or no sample could end.
    """
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **(others or {})}
    # the decoder's start token is what labels do not have
    return _sample(model, inputs, sampling, seeds, eos_token_ids, prefix_length=1)


def sample_teacher(
    model: PreTrainedModel,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    sampling: Sampling,
    seeds: Sequence[int],
    eos_token_ids: Sequence[int],
    exchange: tuple[int, int] | None = None,
    others: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Returns targets that the teacher gives the prompts, for sequence-level distillation.

    (Kim and Rush, arXiv 1606.07947, section 3.2, who take the likeliest target: `top_k = 1` comes near it.) Drawn like
    those of the student, and leaving the model as it was.

    Args:
        model: A decoder-only model whose ids are the student's.
        prompt_ids: Of shape (batch, prompt), padded on the left.
        prompt_mask: Of the same shape, 0 for padding.
        sampling: How.
        seeds: One for each row; see `row_seeds`.
        eos_token_ids: Which tokens end the teacher's answers. Whichever it was, the target ends with the teacher's end
            in `exchange`, or else with the first one.
        exchange: Ends of the student and of the teacher, which change places in what the teacher says.
        others: What else the model reads, by the names of its arguments: images.

    Returns:
        The student's labels, of shape (batch, target).

    Raises:
        ValueError: If the prompts are padded on the right, the teacher's end in `exchange` is none of `eos_token_ids`,
            there is not one seed for each row, or no sample could end.
    """
    if not prompt_mask[:, -1].all():
        raise ValueError(
            "prompt_mask is 0 in its last column, but what a decoder-only model says follows the last column: pad the "
            "prompts on the left"
        )
    if exchange is not None and exchange[1] not in eos_token_ids:
        raise ValueError(
            f"exchange says that the teacher ends with {exchange[1]}, but eos_token_ids are {list(eos_token_ids)}: "
            "add it, or no target would have an end"
        )
    # the student need not know the teacher's end
    sampling = replace(sampling, exchange=exchange)
    inputs = {"input_ids": prompt_ids, "attention_mask": prompt_mask, **(others or {})}
    labels = _sample(model, inputs, sampling, seeds, eos_token_ids, prefix_length=prompt_ids.shape[1])
    ends = torch.isin(labels, torch.tensor(eos_token_ids, device=labels.device))
    labels = labels.masked_fill(ends, eos_token_ids[0] if exchange is None else exchange[1])
    return exchange_ids(labels, exchange)


def _sample(
    model: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    sampling: Sampling,
    seeds: Sequence[int],
    eos_token_ids: Sequence[int],
    *,
    prefix_length: int,
) -> torch.Tensor:
    if not eos_token_ids:
        raise ValueError("eos_token_ids is empty, but a sample ends with one of them: pass that of the tokenizer")
    ends = exchange_ids(torch.tensor(eos_token_ids), sampling.exchange)
    if sampling.shared_ids is not None and int(ends.min()) >= sampling.shared_ids:
        raise ValueError(
            f"samples end with one of {list(eos_token_ids)}, but only ids below {sampling.shared_ids} are sampled: "
            "the end has to be one of them"
        )
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=sampling.max_new_tokens,
        bos_token_id=model.generation_config.bos_token_id,
        decoder_start_token_id=model.generation_config.decoder_start_token_id,
        eos_token_id=list(eos_token_ids),
        # any id would do: what follows an end is no label
        pad_token_id=eos_token_ids[0],
    )
    with _sampling_from(model, config):
        sequences = model.generate(  # type: ignore[operator]
            **inputs,
            generation_config=config,
            logits_processor=sampling.processors(seeds, prefix_length=prefix_length),
        )
    return labels_of_samples(sequences, eos_token_ids=eos_token_ids, prefix_length=prefix_length)


@contextmanager
def _sampling_from(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Puts a model into evaluation mode with another generation config, and all back at the end."""
    # `generate` fills what its config leaves open from that of the model, so both have to be ours
    modes, own_config = [(module, module.training) for module in model.modules()], model.generation_config
    model.eval()
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own_config
        # not by `train`, which would take the frozen parts along
        for module, training in modes:
            module.training = training


def _splitmix64(state: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Returns output number `index` of the generator SplitMix64 with that state, as signed numbers of 64 bits.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 16. Numbers wrap
    around.
    """
    # in place: for a large vocabulary, memory costs more than arithmetic. A shift of signed numbers copies the sign,
    # which is cut off
    mixed = state + (index + 1) * GOLDEN_GAMMA
    mixed ^= (mixed >> 30).bitwise_and_(2**34 - 1)
    mixed *= FIRST_MULTIPLIER
    mixed ^= (mixed >> 27).bitwise_and_(2**37 - 1)
    mixed *= SECOND_MULTIPLIER
    mixed ^= (mixed >> 31).bitwise_and_(2**33 - 1)
    return mixed


def _uniform(bits: torch.Tensor) -> torch.Tensor:
    """Returns numbers in (0, 1), in float64: the 52 highest bits and a half, so that they are neither 0 nor 1."""
    return (bits >> 12).bitwise_and_(2**52 - 1).double().add_(0.5).mul_(2.0**-52)
