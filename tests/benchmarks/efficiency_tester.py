"""What the tests of the efficiency comparison share: models of all architectures, so small that they take no time."""

from argparse import Namespace

from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, BartConfig

from encdec_slm.benchmarks.model_choice import PEERS, base_config, parameters_of
from encdec_slm.benchmarks.peers import random_model, t5_of_equal_shape


def configurations():
    """Ours, its peers, and a model of another family, whose two stacks differ in all sizes."""
    ours = base_config("tiny", 64)
    bart = BartConfig(
        vocab_size=512, d_model=64, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=48,
    )  # fmt: skip
    peers = {name: peer(ours, parameters_of(ours)) for name, peer in PEERS.items()}
    return {"ours": ours, "t5-shape": t5_of_equal_shape(ours), "bart": bart, **peers}


def model_of(config):
    return random_model(
        config, "float32", AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    )


def options(**changed):
    """The command's options, for what is small enough for a test."""
    given = {
        "models": ["encoder-decoder", "decoder-only"], "exported": [], "preset": "tiny", "uncached": False,
        "dtype": ["float32"], "input_length": [8], "batch_size": [1], "new_tokens": 3, "repeats": 2, "threads": 1,
        "attention": None, "device": "cpu", "output": None,
    }  # fmt: skip
    return Namespace(**{**given, **changed})
