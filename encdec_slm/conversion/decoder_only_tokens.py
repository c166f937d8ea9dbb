"""Which tokens begin, end and fill the sequences of an encoder-decoder that starts from a decoder-only model."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase


# names of special tokens that texts do not have, the best for padding first: many families keep places for new roles,
# byte-level tokenizers know every text, and what parts the documents of pretraining is not within one
NAMES_TO_PAD_WITH = (r"pad", r"reserved|unused", r"\bunk\b", r"endoftext")


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """The special tokens of the new model, and what had to be chosen for it.

    `notes` are sentences for the user, one for each token that the source does not have.
    """

    pad_token_id: int
    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    decoder_start_token_id: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of_decoder_only(
        cls,
        config: PreTrainedConfig,
        generation_config: GenerationConfig | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Self:
        """Returns the tokens for a source with this configuration and tokenizer.

        The beginning is the tokenizer's, or without a tokenizer that of the generation configuration or the
        configuration; padding is the first of these. All tokens end a sequence of which one of the three says so. The
        decoder starts with the token for the beginning, or else for padding.

        A source seldom has a token for padding alone. One that pads with its end, or not at all, gets a special token
        without another role: one with a name for it, one that is reserved, the unknown one, or `<|endoftext|>`. If
        there is none, the end token is left, which labels must then tell apart by their length.

        Raises:
            ValueError: If the source has no special token at all.
        """
        stated = _Stated(config, generation_config, tokenizer)
        notes: list[str] = []
        eos_token_ids = stated.eos_token_ids()
        bos_token_id = stated.own("bos_token_id")
        pad_token_id = stated.padding_alone(eos_token_ids)
        if pad_token_id is None:
            pad_token_id = _pad_token_id(stated, eos_token_ids, bos_token_id, notes)
        if not eos_token_ids:
            notes.append("The source has no end token: the new model generates up to `max_new_tokens`.")
        start = bos_token_id
        if start is None:
            start = pad_token_id
            notes.append(f"The source has no bos token: the decoder starts with {stated.name(start)}, its padding.")
        return cls(
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_ids[0] if len(eos_token_ids) == 1 else eos_token_ids or None,
            decoder_start_token_id=start,
            notes=tuple(notes),
        )

    @property
    def ids(self) -> dict[str, Any]:
        """The ids by the names that a configuration gives them."""
        return {
            "pad_token_id": self.pad_token_id,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
            "decoder_start_token_id": self.decoder_start_token_id,
        }

    def pad(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Lets the tokenizer pad with the model's token, on the right."""
        tokenizer.padding_side = "right"
        if tokenizer.pad_token_id != self.pad_token_id:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(self.pad_token_id)


@dataclass(frozen=True)
class _Stated:
    config: PreTrainedConfig
    generation_config: GenerationConfig | None
    tokenizer: PreTrainedTokenizerBase | None

    def own(self, name: str) -> int | None:
        """Returns the tokenizer's id; without a tokenizer, that of the configurations."""
        if self.tokenizer is not None:
            return self._valid(getattr(self.tokenizer, name))
        return next(iter(self._of_configurations(name)), None)

    def eos_token_ids(self) -> list[int]:
        """Returns the ids that end a sequence, each once, that of the tokenizer first if no other says so."""
        ids = [*self._of_configurations("eos_token_id")]
        end = None if self.tokenizer is None else self._valid(self.tokenizer.eos_token_id)
        return [*dict.fromkeys(ids if end is None or end in ids else [end, *ids])]

    def padding_alone(self, eos_token_ids: list[int]) -> int | None:
        """Returns the id for padding, if there is one that does not end texts too."""
        if self.tokenizer is None:
            end = eos_token_ids[0] if len(eos_token_ids) == 1 else None
            candidates = [*self._of_configurations("pad_token_id")]
        else:
            end = self._valid(self.tokenizer.eos_token_id)
            special = self._special_tokens()
            candidates = [token_id for token_id in self._of_configurations("pad_token_id") if token_id in special]
            own = self._valid(self.tokenizer.pad_token_id)
            candidates = candidates if own is None else [own, *candidates]
        return next((token_id for token_id in candidates if token_id != end), None)

    def name(self, token_id: int) -> str:
        """Returns the id with its token, if there is a tokenizer."""
        if self.tokenizer is None:
            return str(token_id)
        return f"{token_id} ({self.tokenizer.convert_ids_to_tokens(token_id)!r})"

    def without_a_role(self, roles: set[int | None]) -> int | None:
        """Returns a special token of the tokenizer that can be for padding, or None."""
        for pattern in NAMES_TO_PAD_WITH:
            for token_id, name in self._special_tokens().items():
                if token_id not in roles and re.search(pattern, name, re.IGNORECASE):
                    return token_id
        return None

    def _special_tokens(self) -> dict[int, str]:
        if self.tokenizer is None:
            return {}
        added = sorted(self.tokenizer.added_tokens_decoder.items())
        names = {token_id: token.content for token_id, token in added if token.special}
        if self.tokenizer.unk_token_id is not None:
            # whatever it is called
            names[self.tokenizer.unk_token_id] = "<unk>"
        return {token_id: name for token_id, name in names.items() if self._valid(token_id) is not None}

    def _of_configurations(self, name: str) -> Iterator[int]:
        found = None if self.generation_config is None else getattr(self.generation_config, name)
        if found is None:
            found = self.config.to_dict().get(name)
        for token_id in found if isinstance(found, list) else [found]:
            # some configurations have -1 for "none"
            valid = self._valid(token_id)
            if valid is not None:
                yield valid

    def _valid(self, token_id: int | None) -> int | None:
        return token_id if token_id is not None and 0 <= token_id < self.config.vocab_size else None


def _pad_token_id(stated: _Stated, eos_token_ids: list[int], bos_token_id: int | None, notes: list[str]) -> int:
    chosen = stated.without_a_role({*eos_token_ids, bos_token_id})
    if chosen is not None:
        notes.append(
            f"The source has no token for padding alone: the new model pads with {stated.name(chosen)}, which has no "
            "other use in a text."
        )
        return chosen
    borrowed = eos_token_ids[0] if eos_token_ids else bos_token_id
    if borrowed is None:
        raise ValueError(
            "neither the configuration nor the tokenizer of the source has a bos, eos or pad token, so that no "
            "sequence could start: set them in its generation_config.json or in the tokenizer"
        )
    notes.append(
        f"The source has no token for padding, and no spare one: the new model pads with {stated.name(borrowed)}, "
        "which has another use. Let labels tell padding by the length of a row, as -100 in DataCollatorForSeq2Seq "
        "does, and not by this id, or the model would not learn to end."
    )
    return borrowed
