"""An ONNX export of a model that reads images, with the `generate` of Transformers and what its processor gives."""

from typing import Any, ClassVar

import torch

from encdec_slm.export.onnx_engine import OnnxEngine
from encdec_slm.export.onnx_model import OnnxEncoderOutput, ORTEncDecSLM, ORTEncoder
from encdec_slm.export.onnx_vision_engine import OnnxVisionEngine
from encdec_slm.models.configuration_encdec_slm import EncDecSLMConfig
from encdec_slm.models.configuration_encdec_slm_vision import EncDecSLMVisionConfig
from encdec_slm.models.modeling_encdec_slm_vision import without_images
from encdec_slm.models.modeling_encdec_slm_vision_layers import arrange, image_layouts, pool_image_states


class ORTVisionEncoder(ORTEncoder):
    """Tower, embeddings and encoder as `generate` calls them; the model's own functions lay the images out.

    Args:
        engine: The graphs.
        config: The model's configuration.
    """

    def __init__(self, engine: OnnxVisionEngine, config: EncDecSLMVisionConfig) -> None:
        super().__init__(engine)
        self.vision: OnnxVisionEngine = engine
        self.config: Any = config.encoder

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> OnnxEncoderOutput:
        """Returns the encoder states, shape `(batch, source, hidden)`, fewer where those of images are averaged.

        Args:
            input_ids: Shape `(batch, source)`.
            attention_mask: 0 where the input is padding.
            pixel_values: Views of the images, as the processor gives them.
            image_sizes: Heights and widths of the images, shape `(images, 2)`.
            kwargs: Nothing that the graphs know of.

        Raises:
            ValueError: If there are more or fewer image tokens than features, or the graphs are static and the input
                is longer, or has several rows.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        tokens, attended = self.vision.fit(input_ids.numpy(force=True), mask.numpy(force=True))
        embeds = torch.from_numpy(self.vision.embed(tokens))
        is_image = torch.zeros(tokens.shape, dtype=torch.bool)
        is_image[:, : input_ids.shape[1]] = input_ids.cpu() == self.config.image_token_id
        features = self.get_image_features(pixel_values, image_sizes)
        if is_image.sum() != len(features):
            raise ValueError(
                f"the input has {is_image.sum()} image tokens, but the images have {len(features)} features: take "
                "pixel_values, image_sizes and input_ids from the export's processor, all of one call"
            )
        embeds = embeds.masked_scatter(is_image[..., None], features)
        rows = self.vision.read(embeds.numpy(), attended)
        # CODEPATH: checkpoints whose decoder reads fewer states of an image than their encoder
        if self.vision.averages:
            states, attention = torch.from_numpy(rows.states), torch.from_numpy(attended)
            if pixel_values is not None:
                states, attention = pool_image_states(states, is_image, attention, self.config.image_state_pooling)
            rows = self.vision.project(states.numpy(), attention.numpy())
        return OnnxEncoderOutput(last_hidden_state=torch.from_numpy(rows.states), rows=rows)

    def get_image_features(
        self, pixel_values: torch.Tensor | None, image_sizes: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns what the encoder reads of all images, one after the other, shape `(tokens, hidden)`.

        Args:
            pixel_values: Views of the images, as the processor gives them; none if not given.
            image_sizes: Heights and widths of the images, shape `(images, 2)`.
        """
        config, geometry = self.config, self.config.image_geometry
        if pixel_values is None:
            return torch.zeros(0, config.hidden_size)
        pixel_values = pixel_values.float().cpu()
        layouts = image_layouts(pixel_values, image_sizes, geometry)
        images = pixel_values if geometry.grid_pinpoints else pixel_values[:, None]
        views = [image[layout.views] for image, layout in zip(images, layouts, strict=True)]
        features, newline = (torch.from_numpy(output) for output in self.vision.see(torch.cat(views).numpy()))
        prefix, patches = features.split((config.kept_prefix_tokens, geometry.patches_per_side**2), dim=1)
        patches = patches.unflatten(1, (geometry.patches_per_side, geometry.patches_per_side))
        lengths = [len(view) for view in views]
        parts = zip(prefix.split(lengths), patches.split(lengths), layouts, strict=True)
        return torch.cat([arrange(*part, newline, config.image_token_compression) for part in parts])


class ORTEncDecSLMVision(ORTEncDecSLM):
    """A vision model of this package in ONNX Runtime.

    Args:
        config: The model's configuration.
        engine: Its graphs.
        options: As of `ORTEncDecSLM`.

    Example:
        >>> model = ORTEncDecSLMVision.from_pretrained("outputs/onnx")  # doctest: +SKIP
        >>> inputs = processor(images=image, text="<image>what is it?", return_tensors="pt")  # doctest: +SKIP
        >>> model.generate(**inputs, max_new_tokens=32)  # doctest: +SKIP
    """

    input_modalities: tuple[str, ...] = ("image", "text")
    config_class: ClassVar[type[EncDecSLMConfig]] = EncDecSLMVisionConfig
    engine_class: ClassVar[type[OnnxEngine]] = OnnxVisionEngine

    def __init__(self, config: EncDecSLMVisionConfig, engine: OnnxVisionEngine, *options: Any) -> None:
        super().__init__(config, engine, *options)
        self.encoder = ORTVisionEncoder(engine, config)

    def _expand_inputs_for_generation(
        self: Any,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.LongTensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.LongTensor, dict[str, Any]]:
        # the encoder has seen the images, and beams need no copies of them
        parent: Any = super()
        return parent._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **without_images(model_kwargs)
        )
