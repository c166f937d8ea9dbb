"""The graphs that a vision model has beside the decoder's: tower and projector, embeddings, and an encoder of them.

Files and tensors are named as by transformers.js for image-text models of encoder and decoder. What depends on the
size of an image stays outside: which views it has, how their tokens are laid out, and which states are averaged. The
model's own functions see to that, between the graphs.
"""

from typing import Any

import torch
from torch import nn

from encdec_slm.export.onnx_graphs import EncoderGraph
from encdec_slm.models.modeling_encdec_slm_vision_layers import pixel_shuffle, split_states


class VisionGraph(nn.Module):
    """Views to the tokens of each: tower, pixel shuffle and projector. It gives the newline of a grid's rows too.

    Args:
        model: A vision model for conditional generation.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        encoder = model.get_encoder()
        self.config = encoder.config
        self.vision_tower = encoder.vision_tower
        self.multi_modal_projector = encoder.multi_modal_projector
        self.image_newline = encoder.image_newline
        self.tower_arguments = encoder.tower_arguments
        self.input_names = ["pixel_values"]
        self.output_names = ["image_features", "image_newline"]

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the tokens of views, and the newline.

        Args:
            pixel_values: Shape `(views, channels, image_size, image_size)`.

        Returns:
            Shapes `(views, kept_prefix_tokens + patches, hidden)`, patches row by row, and `(hidden,)`.
        """
        config = self.config
        outputs = self.vision_tower(
            pixel_values, output_hidden_states=config.vision_feature_layer, **self.tower_arguments
        )
        states = outputs.hidden_states[config.vision_feature_layer]
        prefix, patches = split_states(states, config.kept_prefix_tokens, config.patches_per_side)
        features = self.multi_modal_projector(pixel_shuffle(patches, config.pixel_shuffle_factor))
        # CODEPATH: checkpoints that read CLS
        if config.kept_prefix_tokens:
            features = torch.cat((self.multi_modal_projector(prefix), features), dim=1)
        return features, self.image_newline(torch.zeros((), dtype=torch.long, device=features.device))


class EmbedGraph(nn.Module):
    """Tokens to embeddings, some of which then make place for features of images.

    Args:
        model: A model for conditional generation.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.embed_tokens = model.get_encoder().embed_tokens
        self.input_names = ["input_ids"]
        self.output_names = ["inputs_embeds"]

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Returns the embeddings, shape `(batch, source, hidden)`."""
        return self.embed_tokens(input_ids)


class EmbedsEncoderGraph(EncoderGraph):
    """As the encoder's graph of a text model, of embeddings.

    Args:
        model: A vision model for conditional generation. If it averages the states of an image, the graph gives no
            keys and values: `CrossGraph` does, of what is left.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.input_names = ["inputs_embeds", "attention_mask"]
        self.averages = self.encoder.config.image_state_pooling > 1
        if self.averages:
            self.output_names = self.output_names[:1]

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the states, shape `(batch, source, hidden)`, then keys and values of each layer."""
        states = self.read(inputs_embeds, attention_mask)
        return (states,) if self.averages else (states, *self.keys_and_values(states, attention_mask))


class CrossGraph(nn.Module):
    """Encoder states to the keys and values of every layer of cross-attention.

    Args:
        model: A model for conditional generation.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.whole = EncoderGraph(model)
        self.input_names, self.output_names = ["encoder_hidden_states"], self.whole.output_names[1:]

    def forward(self, encoder_hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns keys and values of each layer, of states of shape `(batch, source, hidden)`."""
        return self.whole.keys_and_values(encoder_hidden_states)
