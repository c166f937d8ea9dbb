"""The towers and compressions that every law of images must hold for."""

import torch
from vision_tester import CLIP, VisionTester


SIGLIP = {"model_type": "siglip_vision_model", **{name: CLIP[name] for name in CLIP if name != "model_type"}}
DINO = {"model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 2}
VIT = {
    "model_type": "timm_wrapper",
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"img_size": 8, "patch_size": 2, "depth": 3, "embed_dim": 24, "num_heads": 2},
}
CNN = {"model_type": "timm_wrapper", "architecture": "resnet10t"}
VISION_VARIANTS = {
    "clip": VisionTester(),
    "unlimited": VisionTester(encoder={"max_image_tokens": None}),
    "original": VisionTester(
        encoder={
            "max_image_tokens": None,
            "max_tiles": 3,
            "thumbnail_for_one_tile": True,
            "max_position_embeddings": 200,
        }
    ),
    "cls": VisionTester(encoder={"kept_prefix_tokens": 1}),
    "average_pool": VisionTester(encoder={"image_token_compression": "average_pool"}),
    "pixel_shuffle": VisionTester(encoder={"image_token_compression": "pixel_shuffle", "max_image_tokens": 60}),
    "one_view": VisionTester(encoder={"image_grid_pinpoints": []}),
    "one_view_within_a_budget": VisionTester(encoder={"image_grid_pinpoints": [], "max_image_tokens": 10}),
    "pooling": VisionTester(encoder={"image_state_pooling": 3}),
    "pooling_and_places": VisionTester(encoder={"image_state_pooling": 3}, decoder={"cross_attention_rope": True}),
    "larger_views": VisionTester(encoder={"image_size": 12}),
    "siglip": VisionTester(encoder={"vision_config": SIGLIP, "vision_feature_layer": -1}),
    "dinov2": VisionTester(encoder={"vision_config": {**DINO, "image_size": 8}}),
    "timm_vit": VisionTester(
        encoder={"vision_config": VIT, "image_size": 8, "patches_per_side": 4, "vision_hidden_size": 24}
    ),
    "timm_cnn": VisionTester(
        encoder={"vision_config": CNN, "image_size": 32, "patches_per_side": 2, "vision_hidden_size": 256}
    ),
}


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def features_of(model, row):
    """What the encoder reads of every image of a row."""
    return model.get_image_features(row["pixel_values"], row.get("image_sizes")).pooler_output
