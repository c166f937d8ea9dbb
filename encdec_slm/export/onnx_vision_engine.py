"""The graphs of a model that reads images, run with NumPy and ONNX Runtime alone."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encdec_slm.export.onnx_engine import EncodedRows, Integers, OnnxEngine
from encdec_slm.export.onnx_names import CROSS_FILE, EMBED_FILE, VISION_FILE


class OnnxVisionEngine(OnnxEngine):
    """The graphs of an exported vision model: what stands between them, the layout of images, is the caller's.

    Args:
        folder: What `encdec-slm export --format onnx` wrote.
        options: As of `OnnxEngine`.

    Raises:
        ValueError: If the export is not complete, newer than the runtime, or the provider is not there.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self.embedder, self.tower = (self.open(folder / file) for file in (EMBED_FILE, VISION_FILE))
        self.averages = len(self.encoder.get_outputs()) == 1
        self.projector = self.open(folder / CROSS_FILE) if self.averages else None

    def see(self, views: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the tokens of views, shape `(views, tokens, hidden)`, and the newline of a grid's rows, `(hidden,)`.

        Args:
            views: Shape `(views, channels, image_size, image_size)`.
        """
        # a static tower sees one view at a time
        batches = [views] if self.static_length is None else np.split(views, len(views))
        outputs = [self._numpy(self.tower, {"pixel_values": batch}) for batch in batches]
        return np.concatenate([output["image_features"] for output in outputs]), outputs[0]["image_newline"]

    def encode(self, input_ids: Integers, attention_mask: Integers | None = None) -> EncodedRows:
        """Reads a batch of texts without images."""
        mask = np.ones_like(input_ids) if attention_mask is None else attention_mask
        input_ids, mask = self.fit(input_ids, mask)
        rows = self.read(self.embed(input_ids), mask)
        return self.project(rows.states, mask) if self.averages else rows

    def embed(self, input_ids: Integers) -> NDArray[np.float32]:
        """Returns the embeddings of tokens, shape `(batch, source, hidden)`."""
        return self._numpy(self.embedder, {"input_ids": input_ids})["inputs_embeds"]

    def read(self, inputs_embeds: NDArray[np.float32], attention_mask: Integers) -> EncodedRows:
        """Reads embeddings, those of images among them.

        Args:
            inputs_embeds: Shape `(batch, source, hidden)`.
            attention_mask: 0 where the input is padding, shape `(batch, source)`.

        Returns:
            The states, and their keys and values unless some are to be averaged first: `project` gives them then.
        """
        feeds = {"inputs_embeds": self._value(inputs_embeds), "attention_mask": self._value(attention_mask)}
        outputs = self._run(self.encoder, feeds, "last_hidden_state")
        return self._rows(outputs.pop("last_hidden_state").numpy(), attention_mask, outputs)

    def project(self, states: NDArray[np.float32], mask: Integers) -> EncodedRows:
        """Returns encoder states, shape `(batch, states, hidden)`, with their keys and values."""
        if self.static_length is not None:
            missing = self.static_length - states.shape[1]
            states, mask = np.pad(states, ((0, 0), (0, missing), (0, 0))), np.pad(mask, ((0, 0), (0, missing)))
        return self._rows(states, mask, self._run(self.projector, {"encoder_hidden_states": self._value(states)}, ""))

    def _numpy(self, session: Any, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, arrays), strict=True))
