"""Encoder and decoder graphs of an export, run with NumPy and ONNX Runtime alone: no PyTorch, no code of the model."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encdec_slm.export.onnx_names import DECODER_FILE, ENCODER_FILE, ENCODER_MASK, FILLED_MASK
from encdec_slm.export.onnx_session import DEVICES, onnxruntime, open_session, session_options


Integers = NDArray[np.int64]
NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class EncodedRows:
    """What the decoder reads of the input.

    Attributes:
        states: Encoder states, shape `(batch, source, hidden)`.
        cross: Keys and values of cross-attention, by the names of the decoder's inputs, in the device's memory.
        mask: Which states are no padding, shape `(batch, source)`.
        origin: Of which row of the input each row is, shape `(batch,)`: beams of one input share it.
    """

    states: NDArray[Any]
    cross: dict[str, Any]
    mask: Integers
    origin: Integers

    def select(self, indices: Integers) -> "EncodedRows":
        """Returns the rows `indices`; those of one input are the same, so that beams change places for nothing."""
        if np.array_equal(self.origin[indices], self.origin):
            return self
        cross = {name: take(value, indices) for name, value in self.cross.items()}
        return replace(self, cross=cross, mask=self.mask[indices], origin=self.origin[indices])


def take(value: Any, indices: Integers) -> Any:
    """Returns rows of an `OrtValue`, on the device where it is."""
    return onnxruntime().OrtValue.ortvalue_from_numpy(value.numpy()[indices], value.device_name())


class OnnxCache:
    """Keys and values of both attentions as ONNX Runtime holds them: what a step writes is what the next one reads.

    Args:
        rows: The encoded input.
        past: Keys and values of self-attention, by the names of the decoder's inputs.
    """

    is_compileable = False

    def __init__(self, rows: EncodedRows, past: dict[str, Any]) -> None:
        self.rows = rows
        self.past = past
        self.length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Returns how many tokens of the decoder the cache holds."""
        return self.length

    def select(self, indices: Integers) -> None:
        """Makes row `indices[i]` of the batch its row i, as a beam search does after every token."""
        self.rows = self.rows.select(indices)
        if not np.array_equal(indices, np.arange(len(self.rows.mask))):
            self.past = {name: take(value, indices) for name, value in self.past.items()}


class OnnxEngine:
    """The two graphs of an exported text model.

    Args:
        folder: What `encdec-slm export --format onnx` wrote.
        provider: Where the graphs run: `cpu`, `cuda`, `directml`, `qnn` or `openvino`.
        provider_options: As the provider knows them.
        threads: Threads of an operator; as ONNX Runtime decides if not given.
        session_options: `onnxruntime.SessionOptions` for all else.

    Raises:
        ValueError: If the export is not complete, newer than the runtime, or the provider is not there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        provider: str = "cpu",
        provider_options: dict[str, Any] | None = None,
        threads: int | None = None,
        given_options: Any = None,
    ) -> None:
        options = session_options(threads, given_options)
        self.device = DEVICES.get(provider, "cpu")
        self.open = partial(open_session, provider=provider, provider_options=provider_options, options=options)
        self.encoder, self.decoder = (self.open(folder / file) for file in (ENCODER_FILE, DECODER_FILE))
        inputs = {entry.name: entry for entry in self.decoder.get_inputs()}
        self.past_inputs = [name for name in inputs if name.startswith("past_key_values.") and ".decoder." in name]
        self.cross_inputs = [name for name in inputs if name.startswith("past_key_values.") and ".encoder." in name]
        past = inputs[self.past_inputs[0]]
        self.float_type = NUMPY_TYPES[past.type]
        # a number where the graph has one, a name where any will do
        _, self.heads, self.most_tokens, self.head_dim = past.shape
        self.static_length = self.encoder.get_inputs()[0].shape[1] if FILLED_MASK in inputs else None

    def _value(self, array: NDArray[Any]) -> Any:
        return onnxruntime().OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.device)

    def _run(self, session: Any, feeds: dict[str, Any], on_processor: str) -> dict[str, Any]:
        # outputs stay where they are computed, but for the one that is read here
        binding = session.io_binding()
        for name, value in feeds.items():
            binding.bind_ortvalue_input(name, value)
        names = [output.name for output in session.get_outputs()]
        for name in names:
            binding.bind_output(name, "cpu" if name == on_processor else self.device)
        session.run_with_iobinding(binding)
        return dict(zip(names, binding.get_outputs(), strict=True))

    def encode(self, input_ids: Integers, attention_mask: Integers | None = None) -> EncodedRows:
        """Reads a batch of inputs.

        Args:
            input_ids: Shape `(batch, source)`.
            attention_mask: 0 where the input is padding, of the same shape.

        Raises:
            ValueError: If the graphs have static shapes, and the input is longer, or has several rows.
        """
        if attention_mask is None:
            attention_mask = np.ones_like(input_ids)
        input_ids, attention_mask = self.fit(input_ids, attention_mask)
        feeds = {"input_ids": self._value(input_ids), "attention_mask": self._value(attention_mask)}
        outputs = self._run(self.encoder, feeds, "last_hidden_state")
        return self._rows(outputs.pop("last_hidden_state").numpy(), attention_mask, outputs)

    def _rows(self, states: NDArray[Any], mask: Integers, present: dict[str, Any]) -> EncodedRows:
        cross = {name.replace("present", "past_key_values"): value for name, value in present.items()}
        return EncodedRows(states, cross, mask, np.arange(len(states)))

    def fit(self, input_ids: Integers, attention_mask: Integers) -> tuple[Integers, Integers]:
        """Returns tokens and mask as the graphs read them: padded, if those are static.

        Raises:
            ValueError: If the graphs are static, and the input is longer, or has several rows.
        """
        if self.static_length is None:
            return input_ids, attention_mask
        batch, length = input_ids.shape
        if batch > 1 or length > self.static_length:
            raise ValueError(
                f"the input has {batch} rows of {length} tokens, but the graphs are static, for one row of at most "
                f"{self.static_length}: truncate it or go row by row, or export the model without --static-length"
            )
        padding = ((0, 0), (0, self.static_length - length))
        return np.pad(input_ids, padding), np.pad(attention_mask, padding)

    def new_cache(self, rows: EncodedRows, batch: int) -> OnnxCache:
        """Returns the cache of a batch that begins to write.

        Args:
            rows: The encoded input.
            batch: Rows of the decoder, a multiple of those of the input: so many beams or samples of each.

        Raises:
            ValueError: If the graphs are static, which read one row, and there are more.
        """
        if self.static_length is not None and batch > 1:
            raise ValueError(
                f"the decoder should write {batch} beams or samples, but its graph is static, for one: decode "
                "greedily, or export the model without --static-length"
            )
        if batch != len(rows.mask):
            rows = rows.select(np.arange(len(rows.mask)).repeat(batch // len(rows.mask)))
        tokens = 0 if self.static_length is None else self.most_tokens
        empty = np.zeros((batch, self.heads, tokens, self.head_dim), self.float_type)
        return OnnxCache(rows, {name: self._value(empty) for name in self.past_inputs})

    def decode(self, input_ids: Integers, cache: OnnxCache) -> NDArray[np.float32]:
        """Returns the logits of tokens, shape `(batch, target, vocabulary)`, and writes them into the cache.

        Args:
            input_ids: Tokens that follow those in the cache, shape `(batch, target)`.
            cache: Both attentions' keys and values.

        Raises:
            ValueError: If the graphs are static and the cache is full.
        """
        if self.static_length is None:
            return self._step(input_ids, cache)
        # a static graph takes a token at a time
        steps = [self._step(token, cache) for token in np.split(input_ids, input_ids.shape[1], axis=1)]
        return np.concatenate(steps, axis=1)

    def _step(self, input_ids: Integers, cache: OnnxCache) -> NDArray[np.float32]:
        feeds = {
            "input_ids": self._value(input_ids),
            ENCODER_MASK: self._value(cache.rows.mask),
            **cache.rows.cross,
            **cache.past,
        }
        cache.length += input_ids.shape[1]
        if self.static_length is not None:
            if cache.length > self.most_tokens:
                raise ValueError(
                    f"the static graph of the decoder writes {self.most_tokens} tokens at most: ask for fewer, or "
                    "export the model without --static-length"
                )
            feeds[FILLED_MASK] = self._value(np.arange(self.most_tokens)[None] < cache.length)
        outputs = self._run(self.decoder, feeds, "logits")
        logits = outputs.pop("logits").numpy()
        cache.past = {name.replace("present", "past_key_values"): value for name, value in outputs.items()}
        return logits.astype(np.float32, copy=False)

    def greedy(
        self,
        rows: EncodedRows,
        *,
        start_token_id: int,
        eos_token_ids: tuple[int, ...] = (),
        pad_token_id: int = 0,
        max_new_tokens: int = 256,
    ) -> Integers:
        """Returns the likeliest tokens one after the other, shape `(batch, target)`, after the start token.

        Args:
            rows: The encoded input.
            start_token_id: What the decoder begins with.
            eos_token_ids: What ends a row.
            pad_token_id: What follows the end of a row.
            max_new_tokens: Longest answer.
        """
        batch = len(rows.mask)
        cache = self.new_cache(rows, batch)
        tokens = np.full((batch, 1), start_token_id, np.int64)
        answers = [tokens]
        done = np.zeros(batch, bool)
        for _ in range(max_new_tokens):
            tokens = self.decode(tokens, cache)[:, -1:].argmax(-1)
            tokens[done] = pad_token_id
            answers.append(tokens)
            done |= np.isin(tokens[:, 0], eos_token_ids)
            if done.all():
                break
        return np.concatenate(answers, axis=1)
