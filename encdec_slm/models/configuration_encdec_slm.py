"""What a text encoder-decoder is made of: two strict stack configurations, and the sizes that have names."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import RopeParameters
from transformers.utils import auto_docstring


# a projection to several things at once is gathered before it is taken apart, and split again afterwards: what stands
# between, as `q_norm`, sees all heads on every device and has its whole gradient there
ENCODER_TP_PLAN = {
    "layers.*.self_attn.qkv_proj": "colwise_gather_output",
    "layers.*.self_attn.o_proj": "rowwise_split_input",
    "layers.*.mlp.up_proj": "colwise",
    "layers.*.mlp.down_proj": "rowwise",
}
DECODER_TP_PLAN = ENCODER_TP_PLAN | {
    "layers.*.encoder_attn.q_proj": "colwise_gather_output",
    "layers.*.encoder_attn.kv_proj": "colwise_gather_output",
    "layers.*.encoder_attn.o_proj": "rowwise_split_input",
}
# what a checkpoint folder says about the code files that lie in it
REMOTE_CODE = {
    "AutoConfig": "configuration_encdec_slm.EncDecSLMConfig",
    "AutoModel": "modeling_encdec_slm.EncDecSLMModel",
    "AutoModelForSeq2SeqLM": "modeling_encdec_slm.EncDecSLMForConditionalGeneration",
    "AutoModelForTextEncoding": "modeling_encdec_slm.EncDecSLMEncoder",
}
REMOTE_PIPELINES = {
    "text2text-generation": {
        "impl": "pipeline_encdec_slm.Text2TextGenerationPipeline",
        "pt": ["AutoModelForSeq2SeqLM"],
        "type": "text",
    }
}
# "longrope" is not among them: it changes its frequencies with the length, between two cached tokens
SUPPORTED_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")


@auto_docstring(checkpoint="encdec-slm/330m")
@strict
class EncDecSLMEncoderConfig(PreTrainedConfig):
    r"""
    gated_mlp (`bool`, *optional*, defaults to `False`):
        `False`: two projections around the activation, as in the original; `True`: the three of the Llama family.
    qk_norm (`bool`, *optional*, defaults to `False`):
        Whether every head's queries and keys are normalised before their rotation, as in Qwen3.
    dropout (`float`, *optional*, defaults to 0.1):
        Dropout on the output of the feed-forward block.
    """

    model_type = "encdec_slm_encoder"
    base_config_key = "encoder"
    base_model_tp_plan = ENCODER_TP_PLAN

    vocab_size: int = 32_128
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 20
    num_attention_heads: int = 16
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "gelu_pytorch_tanh"
    gated_mlp: bool = False
    attention_bias: bool = True
    mlp_bias: bool = True
    qk_norm: bool = False
    rms_norm_eps: float = 1e-6
    rope_parameters: RopeParameters | dict[str, Any] | None = None
    max_position_embeddings: int = 1024
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // max(self.num_attention_heads, 1)
        if self.gated_mlp:
            self.base_model_tp_plan = {**self.base_model_tp_plan, "layers.*.mlp.gate_proj": "colwise"}
        super().__post_init__(**kwargs)
        # `@strict` calls this too, but wraps the ValueError in one of its own kind
        self.validate_architecture()

    def validate_architecture(self) -> None:
        """Called by `@strict`: refuses sizes that no stack can be built from.

        Raises:
            ValueError: If a size is not positive, the heads cannot be grouped, a head cannot be rotated, the
                activation is unknown, or the RoPE type is not supported.
        """
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{self.base_config_key}.{name} must be at least 1, got {getattr(self, name)}")
        if self.num_hidden_layers < 0:
            raise ValueError(f"{self.base_config_key}.num_hidden_layers must not be negative")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.base_config_key}: num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(
                f"{self.base_config_key}: head_dim ({self.head_dim}) must be even and positive, since RoPE rotates "
                f"pairs; without head_dim it is hidden_size // num_attention_heads "
                f"({self.hidden_size} // {self.num_attention_heads})"
            )
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"{self.base_config_key}: unknown hidden_act {self.hidden_act!r}, use one of {[*ACT2FN]}")
        rope_type = self.rope_parameters["rope_type"]
        if rope_type not in SUPPORTED_ROPE_TYPES:
            raise ValueError(
                f"{self.base_config_key}: rope_type {rope_type!r} is not supported, use one of {SUPPORTED_ROPE_TYPES}"
            )


@auto_docstring(checkpoint="encdec-slm/330m")
@strict
class EncDecSLMDecoderConfig(EncDecSLMEncoderConfig):
    r"""
    gated_mlp (`bool`, *optional*, defaults to `False`):
        `False`: two projections around the activation, as in the original; `True`: the three of the Llama family.
    qk_norm (`bool`, *optional*, defaults to `False`):
        Whether every head's queries and keys are normalised before their rotation, as in Qwen3.
    dropout (`float`, *optional*, defaults to 0.1):
        Dropout on the output of the feed-forward block.
    cross_attention_hidden_size (`int`, *optional*):
        Width of the encoder states that cross-attention reads; `hidden_size` if not given. `EncDecSLMConfig` sets it.
    cross_attention_rope (`bool`, *optional*, defaults to `False`):
        Whether cross-attention too rotates queries and keys, by their places in target and source. The original does
        not. For answers that follow their source, as translations and corrections do: a decoder from random weights
        then learns to copy in a fraction of the steps.
    """

    model_type = "encdec_slm_decoder"
    base_config_key = "decoder"
    base_model_tp_plan = DECODER_TP_PLAN
    keys_to_ignore_at_inference = ["past_key_values"]

    num_hidden_layers: int = 10
    cross_attention_hidden_size: int | None = None
    cross_attention_rope: bool = False
    use_cache: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    def __post_init__(self, **kwargs: Any) -> None:
        if self.cross_attention_hidden_size is None:
            self.cross_attention_hidden_size = self.hidden_size
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """As of the encoder, and refuses angles that differ between queries and cached keys.

        Raises:
            ValueError: As of the encoder, or if cross-attention is to rotate with a base that follows the length.
        """
        super().validate_architecture()
        if self.cross_attention_rope and self.rope_parameters["rope_type"] == "dynamic":
            raise ValueError(
                "decoder: cross_attention_rope does not go with rope_type 'dynamic', whose base follows the length of "
                "source and target each: use another of "
                f"{', '.join(name for name in SUPPORTED_ROPE_TYPES if name != 'dynamic')}"
            )


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named size. Encoder and decoder share every width and differ in depth, two thirds to one third."""

    hidden_size: int
    intermediate_size: int
    encoder_layers: int
    decoder_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 1024
    vocab_size: int = 32_128
    eos_token_id: int = 2


PRESETS = {
    # tests and the demo: a minute of CPU
    "tiny": Preset(
        hidden_size=128, intermediate_size=512, encoder_layers=4, decoder_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, vocab_size=512,
    ),
    # the longer tasks on a laptop
    "small": Preset(
        hidden_size=384, intermediate_size=1536, encoder_layers=8, decoder_layers=4,
        num_attention_heads=6, num_key_value_heads=3, head_dim=64,
    ),
    # the shape and the token ids of the released checkpoint
    "330m": Preset(
        hidden_size=1024, intermediate_size=4096, encoder_layers=20, decoder_layers=10,
        num_attention_heads=6, num_key_value_heads=3, head_dim=64, eos_token_id=32_000,
    ),
    # deeper before wider, as small models prefer; attention stays at about 0.45 of the width, feed-forward at 4
    "500m": Preset(
        hidden_size=1152, intermediate_size=4608, encoder_layers=24, decoder_layers=12,
        num_attention_heads=8, num_key_value_heads=4, head_dim=64, max_position_embeddings=2048,
    ),
    "1b": Preset(
        hidden_size=1408, intermediate_size=5632, encoder_layers=32, decoder_layers=16,
        num_attention_heads=10, num_key_value_heads=5, head_dim=64, max_position_embeddings=2048,
    ),
}  # fmt: skip


# the library reads and writes these at the decoder's configuration (`get_text_config`) as well as at the whole one's
OF_THE_DECODER = ("pad_token_id", "bos_token_id", "eos_token_id", "use_cache")


def own_fields(config_class: type[PreTrainedConfig]) -> set[str]:
    """Returns the names of a configuration's fields that not every configuration of the library has."""
    return {field.name for field in fields(config_class)} - {field.name for field in fields(PreTrainedConfig)}


def of_the(half: str, name: str, doc: str) -> Any:
    """Returns a property of the whole configuration whose value is the field `name` of `half`."""
    return property(
        lambda config: getattr(getattr(config, half), name),
        lambda config, value: setattr(getattr(config, half), name, value),
        doc=doc,
    )


@auto_docstring(checkpoint="encdec-slm/330m")
@strict
class EncDecSLMConfig(PreTrainedConfig):
    r"""
    encoder (`EncDecSLMEncoderConfig` or `dict`, *optional*):
        Configuration of the encoder stack.
    decoder (`EncDecSLMDecoderConfig` or `dict`, *optional*):
        Configuration of the decoder stack.
    lm_head_bias (`bool`, *optional*, defaults to `False`):
        Whether the language modeling head has a bias.

    Example:
    >>> from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
    >>> config = EncDecSLMConfig.from_preset("tiny", vocab_size=100)
    >>> config.encoder.num_hidden_layers, config.decoder.num_hidden_layers
    (4, 2)
    >>> model = EncDecSLMForConditionalGeneration(config)
    """

    model_type = "encdec_slm"
    keys_to_ignore_at_inference = ["past_key_values"]
    sub_configs = {"encoder": EncDecSLMEncoderConfig, "decoder": EncDecSLMDecoderConfig}
    # set where the registry of `pipeline` has ours: the copy in a checkpoint is then not needed, nor trust in it
    has_registered_pipelines: ClassVar[bool] = False
    # given here too, and kept in the halves
    shared_fields: ClassVar[tuple[str, ...]] = ("vocab_size", *OF_THE_DECODER)
    remote_code: ClassVar[dict[str, str]] = REMOTE_CODE

    encoder: EncDecSLMEncoderConfig | dict[str, Any] | None = None
    decoder: EncDecSLMDecoderConfig | dict[str, Any] | None = None
    is_encoder_decoder: bool = True
    decoder_start_token_id: int | None = 1
    tie_word_embeddings: bool = True
    lm_head_bias: bool = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        for name, config_class in self.sub_configs.items():
            stack = getattr(self, name)
            if not isinstance(stack, PreTrainedConfig):
                setattr(self, name, config_class(**(stack or {})))
            getattr(self, name).initializer_range = self.initializer_range
        self.decoder.cross_attention_hidden_size = self.encoder.hidden_size
        for name in self.shared_fields:
            if name in kwargs:
                setattr(self, name, kwargs.pop(name))
        if self.has_registered_pipelines:
            kwargs.pop("custom_pipelines", None)
        self._refuse_misplaced_sizes(kwargs)
        super().__post_init__(**kwargs)
        self.validate_architecture()

    def _refuse_misplaced_sizes(self, kwargs: dict[str, Any]) -> None:
        # unknown arguments become attributes: a size given here and not to a stack would be silently without effect
        for name, value in kwargs.items():
            halves = [half for half in ("encoder", "decoder") if name in own_fields(type(getattr(self, half)))]
            if halves and getattr(getattr(self, halves[-1]), name) != value:
                places = " and ".join(f"{half}={{{name!r}: ...}}" for half in halves)
                raise ValueError(
                    f"{name}={value!r} was given to {type(self).__name__}, but {halves[-1]}.{name} is "
                    f"{getattr(getattr(self, halves[-1]), name)!r}: pass it to the stacks, as {places}"
                )

    @classmethod
    def from_preset(cls, name: str, **kwargs: Any) -> Self:
        """Returns the configuration of a named size.

        `330m` is the shape released with the paper (arXiv 2501.16273): 332,042,240 parameters. All sizes keep its
        split (two thirds of the layers in the encoder), its dense feed-forward block, its biases and one embedding
        shared by encoder, decoder and head.

        Args:
            name: One of `tiny`, `small`, `330m`, `500m`, `1b`.
            kwargs: Arguments of the configuration that differ from the preset's, such as `vocab_size` or token ids.

        Raises:
            ValueError: If there is no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"there is no preset {name!r}; use one of {', '.join(PRESETS)}")
        preset = PRESETS[name]
        widths = {
            field: getattr(preset, field)
            for field in (
                "vocab_size",
                "hidden_size",
                "intermediate_size",
                "num_attention_heads",
                "num_key_value_heads",
                "head_dim",
                "max_position_embeddings",
            )
        }
        stacks = {
            "encoder": {**widths, "num_hidden_layers": preset.encoder_layers},
            "decoder": {**widths, "num_hidden_layers": preset.decoder_layers},
        }
        return cls(**{"eos_token_id": preset.eos_token_id, **stacks, **kwargs})

    @property
    def vocab_size(self) -> int:
        """Number of tokens of the vocabulary that both stacks share."""
        return self.decoder.vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        self.encoder.vocab_size = self.decoder.vocab_size = value

    pad_token_id = of_the("decoder", "pad_token_id", "Token that fills up the shorter rows of a batch.")
    bos_token_id = of_the("decoder", "bos_token_id", "Token that begins a sequence.")
    eos_token_id = of_the("decoder", "eos_token_id", "Token, or tokens, that end a sequence.")
    use_cache = of_the("decoder", "use_cache", "Whether the decoder keeps keys and values if the caller does not say.")

    def to_dict(self) -> dict[str, Any]:
        """As in the library; if the code is saved too, with everything that the Auto classes and `pipeline` look up.

        The library itself would name the saved class alone, so that `AutoModel` could not load the folder.
        """
        output = super().to_dict()
        # readers of the JSON look for the tokens here
        output |= {name: getattr(self, name) for name in OF_THE_DECODER if name.endswith("_token_id")}
        if self._auto_class is not None:
            output |= {"auto_map": dict(self.remote_code), "custom_pipelines": REMOTE_PIPELINES}
        return output

    def validate_architecture(self) -> None:
        """Called by `@strict`: refuses stacks that do not fit together and token ids outside the vocabulary.

        Raises:
            ValueError: If the two vocabularies differ, or a token id is not in the vocabulary.
        """
        if self.encoder.vocab_size != self.decoder.vocab_size:
            raise ValueError(
                f"encoder.vocab_size ({self.encoder.vocab_size}) and decoder.vocab_size ({self.decoder.vocab_size}) "
                "must be equal: pass vocab_size to set both"
            )
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
            value = getattr(self, name)
            for token_id in value if isinstance(value, list) else [value]:
                if token_id is not None and not 0 <= token_id < self.vocab_size:
                    raise ValueError(f"{name} ({token_id}) is outside the vocabulary of {self.vocab_size} tokens")


__all__ = ["PRESETS", "EncDecSLMConfig", "EncDecSLMDecoderConfig", "EncDecSLMEncoderConfig", "Preset"]
