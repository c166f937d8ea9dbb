"""A data collator that makes a denoising task of any text, for any encoder-decoder and the stock `Seq2SeqTrainer`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, cast

import torch
from torch.utils.data import Dataset
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from encdec_slm.adaptation.denoising import Denoiser, Limits, SpanCorruption
from encdec_slm.adaptation.sentinels import sentinel_ids


Feature = Mapping[str, Any]


@dataclass
class DataCollatorForDenoising:
    """Corrupts texts anew whenever they are batched, and pads sources and targets on the right.

    Source and target are framed as the tokenizer frames them (`tokenizer(text)` and `tokenizer(text_target=text)`),
    and every target ends with the end-of-sequence token. A token that the tokenizer puts in front of a target is left
    out where the model starts its decoder with the same one. Batches have `input_ids`, `attention_mask` and `labels`,
    and `decoder_input_ids` if there is a `model`.

    The noise. Without a `seed` it comes from PyTorch's global generator, and so from the Trainer's seed: other noise
    in every epoch and every worker. With a `seed` the noise of a text is a function of the seed, the epoch (see
    `set_epoch`) and the text alone, whatever the batches, workers and processes: a training that resumes from a
    checkpoint goes on exactly as it would have, and evaluations compare.

    A feature that has `labels` already is only padded: see `DenoisedDataset`.

    Args:
        tokenizer: Its padding and end-of-sequence tokens must be set. The padding side is ignored.
        denoisers: How often each denoiser is drawn, relative to the others.
        model: The model that is trained, if it has `prepare_decoder_input_ids_from_labels`; with label smoothing it
            is needed.
        sentinel_ids: Ids that stand for the hidden spans; those of the tokenizer if not given.
        max_source_length: Most tokens of a source, frame included. A longer text is shortened before it is corrupted.
        max_target_length: Most tokens of a target, frame included.
        mode_token_ids: Tokens that tell the mode (`Denoiser.mode`) in front of the source; none if not given.
        seed: See above.
        pad_to_multiple_of: Sources and targets are padded to a multiple of it.
        label_pad_token_id: What labels are padded with.
        return_tensors: `"pt"` or `"np"`.
    """

    tokenizer: PreTrainedTokenizerBase
    denoisers: Mapping[Denoiser, float]
    model: Any | None = None
    sentinel_ids: Sequence[int] | None = None
    max_source_length: int | None = None
    max_target_length: int | None = None
    mode_token_ids: Mapping[str, int] | None = None
    seed: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = -100
    return_tensors: str = "pt"
    # in shared memory: workers that outlive an epoch see the next one
    _epoch: torch.Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_tokenizer(self.tokenizer)
        if self.sentinel_ids is None:
            self.sentinel_ids = sentinel_ids(self.tokenizer)
        self._check_denoisers(self.sentinel_ids)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        # unknown words are ordinary, also where their token has another role in the model
        self._specials = {*self.tokenizer.all_special_ids, *self.sentinel_ids} - {self.tokenizer.unk_token_id}
        self._source_frame = frame(self.tokenizer)
        self._target_frame = self._frame_of_targets()
        self._limits = self._limits_of_texts()

    def _check_denoisers(self, sentinel_ids: Sequence[int]) -> None:
        shares = list(self.denoisers.values())
        if min(shares, default=0) < 0 or sum(shares) <= 0:
            raise ValueError(f"the shares of the denoisers are {shares}, but none may be negative nor all of them 0")
        drawn = [denoiser for denoiser, share in self.denoisers.items() if share]
        if not sentinel_ids and any(isinstance(denoiser, SpanCorruption) for denoiser in drawn):
            raise ValueError(
                "span corruption needs sentinels, but the tokenizer has none (<extra_id_0> and so on): add them with "
                "`add_sentinels`, or pass `sentinel_ids`"
            )
        if self.mode_token_ids is not None:
            missing = {denoiser.mode for denoiser in drawn} - self.mode_token_ids.keys()
            if missing:
                raise ValueError(f"mode_token_ids has no token for the modes {sorted(missing)} of the denoisers")

    def _frame_of_targets(self) -> tuple[list[int], list[int]]:
        before, after = frame(self.tokenizer, target=True)
        eos = self.tokenizer.eos_token_id
        start = self._decoder_input_ids(torch.tensor([[eos]]))
        if start is not None and before[:1] == start[0].tolist():
            before = before[1:]
        return before, after if after[-1:] == [eos] else [*after, eos]

    def _limits_of_texts(self) -> Limits | None:
        if self.max_source_length is None and self.max_target_length is None:
            return None
        modes = 0 if self.mode_token_ids is None else 1
        lengths = {
            "max_source_length": (self.max_source_length, modes + sum(map(len, self._source_frame))),
            "max_target_length": (self.max_target_length, sum(map(len, self._target_frame))),
        }
        for name, (length, framing) in lengths.items():
            if length is not None and length < framing + 2:
                raise ValueError(
                    f"{name} is {length}, but {framing} tokens frame the text and a text needs 2: raise it"
                )
        # as good as none, but of a size to be added up
        return Limits(*(1 << 40 if length is None else length - framing for length, framing in lengths.values()))

    def _decoder_input_ids(self, labels: torch.Tensor) -> torch.Tensor | None:
        if self.model is None or not hasattr(self.model, "prepare_decoder_input_ids_from_labels"):
            return None
        return cast(torch.Tensor, self.model.prepare_decoder_input_ids_from_labels(labels=labels))

    def set_epoch(self, epoch: int) -> None:
        """Gives texts other noise than in other epochs, where there is a `seed`; workers see it at once."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        """The epoch whose noise texts get, 0 at first."""
        return int(self._epoch)

    def denoise(self, feature: Feature) -> dict[str, list[int]]:
        """Returns `input_ids` and `labels` made of the `input_ids` of one text, both framed and neither padded.

        Specials at the ends of the text are left out, since its frame is added anew, and sentinels anywhere. All
        other specials in it are shown and never hidden.

        Raises:
            ValueError: As `SpanCorruption.corrupt`.
        """
        tokens = self._text(torch.as_tensor(feature["input_ids"]).tolist())
        generator = self._generator(tokens)
        shares = torch.tensor(list(self.denoisers.values()), dtype=torch.float64)
        denoiser = list(self.denoisers)[int(torch.multinomial(shares, 1, generator=generator))]
        source, target = denoiser.corrupt(
            tokens,
            specials=self._specials,
            sentinel_ids=self.sentinel_ids or (),
            limits=self._limits,
            generator=generator,
        )
        mode = [] if self.mode_token_ids is None else [self.mode_token_ids[denoiser.mode]]
        (before_source, after_source), (before_target, after_target) = self._source_frame, self._target_frame
        return {
            "input_ids": [*before_source, *mode, *source, *after_source],
            "labels": [*before_target, *target, *after_target],
        }

    def _text(self, tokens: list[int]) -> list[int]:
        ordinary = [place for place, token in enumerate(tokens) if token not in self._specials]
        if not ordinary:
            return []
        sentinels = set(self.sentinel_ids or ())
        return [token for token in tokens[ordinary[0] : ordinary[-1] + 1] if token not in sentinels]

    def _generator(self, tokens: list[int]) -> torch.Generator | None:
        if self.seed is None:
            return None
        content = blake2b(repr((self.seed, self.epoch, tokens)).encode(), digest_size=4)
        return torch.Generator().manual_seed(int.from_bytes(content.digest()))

    def __call__(self, features: Sequence[Feature], return_tensors: str | None = None) -> dict[str, Any]:
        """Returns a batch.

        Args:
            features: Each with the `input_ids` of a text, or with `input_ids` and `labels`. Whatever else they have is
                ignored.
            return_tensors: Instead of the collator's own.
        """
        return_tensors = return_tensors or self.return_tensors
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"return_tensors is {return_tensors!r}, use 'pt' or 'np'")
        pairs = [feature if "labels" in feature else self.denoise(feature) for feature in features]
        sources, targets = ([torch.as_tensor(pair[name]) for pair in pairs] for name in ("input_ids", "labels"))
        batch = {
            "input_ids": self._padded(sources, self.tokenizer.pad_token_id),
            # by the lengths: the padding token may be another one's too
            "attention_mask": self._padded([torch.ones_like(source) for source in sources], 0),
            "labels": self._padded(targets, self.label_pad_token_id),
        }
        decoder_input_ids = self._decoder_input_ids(batch["labels"])
        if decoder_input_ids is not None:
            batch["decoder_input_ids"] = decoder_input_ids
        return batch if return_tensors == "pt" else {name: part.numpy() for name, part in batch.items()}

    def _padded(self, rows: Sequence[torch.Tensor], value: int) -> torch.Tensor:
        multiple = self.pad_to_multiple_of or 1
        longest = -(-max(map(len, rows)) // multiple) * multiple
        padded = torch.full((len(rows), longest), value, dtype=torch.int64)
        for line, row in zip(padded, rows, strict=True):
            line[: len(row)] = row
        return padded


class DenoisedDataset(Dataset[dict[str, list[int]]]):
    """Texts with noise that stays: the evaluation of every checkpoint asks the same.

    The collator of the training, which the Trainer uses for evaluation too, only pads what it gives.

    Args:
        texts: A dataset of features with `input_ids`.
        collator: Says how they are corrupted; it must have a `seed`.

    Raises:
        ValueError: If the collator has no `seed`.
    """

    def __init__(self, texts: Sequence[Feature], collator: DataCollatorForDenoising) -> None:
        if collator.seed is None:
            raise ValueError("the collator has no seed, but noise that stays must be a function of one: set it")
        self.texts = texts
        self.collator = collator

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.collator.denoise(self.texts[index])


class NewNoiseEachEpoch(TrainerCallback):
    """Tells a collator with a `seed` which epoch it is, also in a training that resumes from a checkpoint.

    Args:
        collator: The `data_collator` of the Trainer.
    """

    def __init__(self, collator: DataCollatorForDenoising) -> None:
        self.collator = collator

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts with the epoch of the checkpoint."""
        self.collator.set_epoch(int(state.epoch))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Counts, because the epoch of a streamed dataset is a share of the steps."""
        self.collator.set_epoch(self.collator.epoch + 1)


def frame(tokenizer: PreTrainedTokenizerBase, *, target: bool = False) -> tuple[list[int], list[int]]:
    """Returns the ids that the tokenizer puts in front of a text and behind it.

    Args:
        tokenizer: The tokenizer.
        target: Whether the text is one that the decoder writes.

    Raises:
        ValueError: If the tokenizer makes no token of anything.
    """
    # whatever it makes tokens of will do, and nearly every tokenizer knows an "a"
    for text in ("a", *tokenizer.get_vocab()):
        encoded = tokenizer(**{"text_target" if target else "text": text}, return_special_tokens_mask=True)
        added = encoded["special_tokens_mask"]
        if 0 in added:
            ids = list(encoded["input_ids"])
            return ids[: added.index(0)], ids[len(added) - added[::-1].index(0) :]
    raise ValueError("the tokenizer makes no token of any word of its vocabulary")


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    for name in ("pad_token", "eos_token"):
        if getattr(tokenizer, name) is None:
            raise ValueError(
                f"the tokenizer has no {name}, which sources and targets need: set tokenizer.{name} to the model's"
            )
