"""An ONNX export with the `generate` of Transformers: greedy search, sampling and beams, in pipelines too."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from transformers import AutoConfig, GenerationConfig, GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from encdec_slm.export.onnx_engine import EncodedRows, OnnxCache, OnnxEngine
from encdec_slm.export.report import REPORT_FILE, read_report
from encdec_slm.models.configuration_encdec_slm import EncDecSLMConfig


@dataclass
class OnnxEncoderOutput(BaseModelOutput):
    """Encoder states, and with them what the decoder's graph reads in their place.

    Attributes:
        rows: Keys and values of cross-attention.
    """

    rows: EncodedRows | None = None


class ORTEncoder:
    """The encoder's graph as `generate` calls it.

    Args:
        engine: Both graphs.
    """

    main_input_name = "input_ids"

    def __init__(self, engine: OnnxEngine) -> None:
        self.engine = engine

    def __call__(self, *args: Any, **kwargs: Any) -> OnnxEncoderOutput:
        """As `forward`."""
        return self.forward(*args, **kwargs)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> OnnxEncoderOutput:
        """Returns the encoder states of `input_ids`, shape `(batch, source, hidden)`."""
        mask = None if attention_mask is None else attention_mask.long().numpy(force=True)
        rows = self.engine.encode(input_ids.numpy(force=True), mask)
        return OnnxEncoderOutput(last_hidden_state=torch.from_numpy(rows.states), rows=rows)


class ORTCache(OnnxCache):
    """The cache as `generate` reorders it."""

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Makes row `beam_idx[i]` of the batch its row i."""
        self.select(beam_idx.numpy(force=True))


class ORTEncDecSLM(GenerationMixin):
    """A text model of this package in ONNX Runtime.

    Args:
        config: The model's configuration.
        engine: Its graphs.
        generation_config: How it generates; the library's defaults if not given.
        parameters: Number of weights of the model that was exported.

    Example:
        >>> model = ORTEncDecSLM.from_pretrained("outputs/onnx", threads=4)  # doctest: +SKIP
        >>> model.generate(**tokenizer("zyzzyva", return_tensors="pt"), num_beams=4)  # doctest: +SKIP
    """

    main_input_name = "input_ids"
    base_model_prefix = ""
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities = ("text",)
    # an assistant would have to take back tokens, which this cache does not
    _is_stateful = True
    device = torch.device("cpu")
    dtype = torch.float32

    config_class: ClassVar[type[EncDecSLMConfig]] = EncDecSLMConfig
    engine_class: ClassVar[type[OnnxEngine]] = OnnxEngine

    def __init__(
        self,
        config: EncDecSLMConfig,
        engine: OnnxEngine,
        generation_config: GenerationConfig | None = None,
        parameters: int = 0,
    ) -> None:
        self.config = config
        self.engine = engine
        self.encoder = ORTEncoder(engine)
        self.generation_config = generation_config or GenerationConfig.from_model_config(config)
        self.parameters = parameters

    @classmethod
    def from_pretrained(
        cls,
        folder: str | PathLike[str],
        *,
        provider: str = "cpu",
        provider_options: dict[str, Any] | None = None,
        threads: int | None = None,
        session_options: Any = None,
    ) -> Self:
        """Returns the model of a folder that `encdec-slm export --format onnx` wrote.

        Args:
            folder: The folder.
            provider: Where the graphs run: `cpu`, `cuda`, `directml`, `qnn` or `openvino`.
            provider_options: As the provider knows them, such as `{"device_id": 1}`.
            threads: Threads of an operator; as ONNX Runtime decides if not given.
            session_options: `onnxruntime.SessionOptions` for all else.

        Raises:
            ValueError: If the export is not complete, newer than the runtime, or of a model of another kind, or the
                provider is not there.
            ImportError: If ONNX Runtime is not installed.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"the folder {folder} does not exist")
        for file in ("config.json", "generation_config.json", REPORT_FILE):
            if not (folder / file).is_file():
                raise ValueError(f"{folder} holds half an export: {file} is missing. Export the model again")
        config = AutoConfig.from_pretrained(folder)
        if config.model_type != cls.config_class.model_type:
            raise ValueError(
                f"{folder} holds an {config.model_type} model, but {cls.__name__} runs {cls.config_class.model_type}: "
                "encdec_slm.export.load_exported chooses the class"
            )
        engine = cls.engine_class(
            folder,
            provider=provider,
            provider_options=provider_options,
            threads=threads,
            given_options=session_options,
        )
        return cls(
            config,
            engine,
            GenerationConfig.from_pretrained(folder),
            read_report(folder).details["parameters"],
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Seq2SeqLMOutput:
        """As `forward`."""
        return self.forward(*args, **kwargs)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: OnnxEncoderOutput | None = None,
        past_key_values: ORTCache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Returns the logits, shape `(batch, target, vocabulary)`, as the model in PyTorch does.

        Args:
            input_ids: Shape `(batch, source)`; not needed with `encoder_outputs`.
            attention_mask: 0 where the input is padding.
            decoder_input_ids: Shape `(batch, target)`, without those that the cache holds.
            decoder_attention_mask: Must be 1 everywhere: the decoder's graph knows no padding.
            encoder_outputs: What `get_encoder()` returned.
            past_key_values: What the call before returned.
            use_cache: Whether the cache is returned, for a call that goes on; it is by default.
            kwargs: Arguments of `generate` that the graphs have no use for.

        Raises:
            ValueError: If the decoder's tokens are padded, or there are none, or no input, or encoder states of
                another model.
        """
        if decoder_input_ids is None:
            raise ValueError("the exported decoder needs decoder_input_ids: it makes none of labels")
        if decoder_attention_mask is not None and not decoder_attention_mask.all():
            raise ValueError(
                "decoder_attention_mask has zeros, but the exported decoder knows no padding: give rows of equal "
                "length, or one at a time"
            )
        if past_key_values is None:
            if encoder_outputs is None:
                if input_ids is None:
                    raise ValueError("there are neither input_ids nor encoder_outputs: give one of them")
                encoder_outputs = self.encoder(input_ids, attention_mask, **kwargs)
            rows = getattr(encoder_outputs, "rows", None)
            if rows is None:
                raise ValueError(
                    f"encoder_outputs is a {type(encoder_outputs).__name__} without the keys and values that the "
                    "exported encoder computes: give what get_encoder() of this model returned"
                )
            new = self.engine.new_cache(rows, len(decoder_input_ids))
            past_key_values = ORTCache(new.rows, new.past)
        self._refuse_turned_keys(past_key_values.length + decoder_input_ids.shape[1])
        logits = self.engine.decode(decoder_input_ids.numpy(force=True), past_key_values)
        return Seq2SeqLMOutput(
            logits=torch.from_numpy(logits),
            past_key_values=None if use_cache is False else cast(Any, past_key_values),
            encoder_last_hidden_state=None if encoder_outputs is None else encoder_outputs.last_hidden_state,
        )

    def _refuse_turned_keys(self, length: int) -> None:
        decoder: Any = self.config.decoder
        # CODEPATH: checkpoints with dynamic NTK scaling: cached keys would keep the base that they were turned with
        if decoder.rope_parameters["rope_type"] == "dynamic" and length > decoder.max_position_embeddings:
            raise ValueError(
                f"{length} tokens are more than max_position_embeddings ({decoder.max_position_embeddings}), from "
                "where dynamic NTK scaling changes the rotary base with every token: ask for fewer, or use PyTorch"
            )

    def greedy(self, input_ids: Any, attention_mask: Any = None, max_new_tokens: int = 256, **images: Any) -> Any:
        """Returns the likeliest tokens, NumPy arrays in and out, without the machinery of `generate`.

        Args:
            input_ids: Shape `(batch, source)`.
            attention_mask: 0 where the input is padding; the same shape.
            max_new_tokens: Tokens written at most, after the one that starts the decoder.
            images: What else the encoder reads: `pixel_values` and `image_sizes`, of models that see.

        Returns:
            Shape `(batch, target)`, with the start token first and padding behind an end, as from `generate`.
        """
        ends = self.generation_config.eos_token_id
        given = {"input_ids": input_ids, "attention_mask": attention_mask, **images}
        encoded = self.encoder(**{name: torch.as_tensor(value) for name, value in given.items() if value is not None})
        return self.engine.greedy(
            cast(EncodedRows, encoded.rows),
            start_token_id=self.generation_config.decoder_start_token_id,
            eos_token_ids=tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,),
            pad_token_id=self.generation_config.pad_token_id or 0,
            max_new_tokens=max_new_tokens,
        )

    def get_encoder(self) -> ORTEncoder:
        """Returns the encoder, which `generate` calls once."""
        return self.encoder

    def can_generate(self) -> bool:
        """Says to pipelines that it does."""
        return True

    def is_remote_code(self) -> bool:
        """Says to `generate` that this code did not come with a checkpoint."""
        return False

    def get_experts_implementation(self) -> dict[str, str]:
        """Says to `generate` that there are no experts."""
        return {}

    def num_parameters(self) -> int:
        """Returns the number of weights of the model that was exported."""
        return self.parameters

    def eval(self) -> Self:
        """Returns itself: it cannot be trained."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Returns itself: `provider` says where it runs, and its inputs and outputs are on the processor."""
        return self

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # the first call of `forward` makes the cache
        return False
