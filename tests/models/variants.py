"""The shapes of model that every law must hold for."""

from model_tester import ModelTester


VARIANTS = {
    "dense_with_biases": ModelTester(),
    # what a student that starts from a decoder-only checkpoint has
    "llama_like": ModelTester(
        both={"gated_mlp": True, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
        tie_word_embeddings=False,
    ),
    # and one that starts from Qwen3
    "qwen3_like": ModelTester(
        both={
            "gated_mlp": True,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "qk_norm": True,
        },
    ),
    # every width differs between the halves: only decoder embedding and head can be shared; the decoder is the deeper,
    # and its cross-attention compares places
    "unequal_halves": ModelTester(
        encoder={"hidden_size": 48, "intermediate_size": 64, "num_key_value_heads": 4, "head_dim": 18},
        decoder={"num_key_value_heads": 1, "num_hidden_layers": 4, "cross_attention_rope": True},
        lm_head_bias=True,
    ),
}
