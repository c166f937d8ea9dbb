"""The smallest models of the families that teach and learn, with random weights that make their answers differ."""

import torch
from model_tester import ModelTester
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
    T5GemmaModuleConfig,
)


VOCAB_SIZE = 60
# far above that of training: the answers of a random model then vary with its input
SCALE = 0.5
TOKENS = {"vocab_size": VOCAB_SIZE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = {
    **TOKENS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": SCALE,
}
GEMMA = {**DECODER, "head_dim": 4, "query_pre_attn_scalar": 4, "sliding_window": 8, "final_logit_softcapping": 2.0}


def t5(**changes):
    changes = {"tie_word_embeddings": True, **changes}
    config = T5Config(
        **TOKENS,
        d_model=16,
        d_kv=4,
        d_ff=24,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        initializer_factor=2.0,
        **changes,
    )
    return T5ForConditionalGeneration(config)


def bart(**changes):
    config = BartConfig(
        **TOKENS,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=64,
        decoder_start_token_id=2,
        init_std=SCALE,
        **changes,
    )
    model = BartForConditionalGeneration(config)
    model.final_logits_bias.normal_()
    return model


def t5gemma():
    stack = T5GemmaModuleConfig(**GEMMA)
    return T5GemmaForConditionalGeneration(
        T5GemmaConfig(encoder=stack, decoder=stack.to_dict(), vocab_size=VOCAB_SIZE, initializer_range=SCALE)
    )


def ours(**top):
    return ModelTester(**top).model()


def llama(**changes):
    return LlamaForCausalLM(LlamaConfig(**{**DECODER, **changes}))


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(**TOKENS, n_embd=16, n_head=4, n_layer=2, n_positions=64, initializer_range=SCALE)
    )


def phi3():
    """With longrope, whose factors for long rows begin at 30 positions."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.5],
        "long_factor": [2.0, 4.0],
        "original_max_position_embeddings": 30,
    }
    return Phi3ForCausalLM(Phi3Config(**DECODER, rope_parameters=rope, original_max_position_embeddings=30))


def gemma2():
    return Gemma2ForCausalLM(Gemma2Config(**GEMMA))


def qwen2():
    return Qwen2ForCausalLM(Qwen2Config(**DECODER))


def opt():
    """With narrower embeddings than layers, so that there is a projection before the head."""
    config = OPTConfig(
        **TOKENS,
        hidden_size=16,
        word_embed_proj_dim=8,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        init_std=SCALE,
    )
    return OPTForCausalLM(config)


def granite():
    return GraniteForCausalLM(GraniteConfig(**DECODER, logits_scaling=8.0))


def cohere():
    return CohereForCausalLM(CohereConfig(**DECODER, logit_scale=0.0625))


STUDENTS = {
    "t5_tied": t5,
    "t5_untied": lambda: t5(tie_word_embeddings=False),
    "bart": bart,
    "t5gemma": t5gemma,
    "ours": ours,
    "ours_with_bias": lambda: ours(lm_head_bias=True),
    "ours_untied": lambda: ours(tie_word_embeddings=False),
}
TEACHERS = {"llama": llama, "gpt2": gpt2, "phi3": phi3, "gemma2": gemma2, "qwen2": qwen2, "opt": opt}
# which do to their logits what is not known
SCALED = {"granite": granite, "cohere": cohere}


def student_inputs(batch=3, source=7, target=5):
    """A batch of sources of unequal lengths, and targets with padding."""
    ids = torch.randint(3, VOCAB_SIZE, (batch, source))
    mask, labels = torch.ones_like(ids), torch.randint(3, VOCAB_SIZE, (batch, target))
    for row in range(1, batch):
        mask[row, source - row :] = 0
        labels[row, target - row :] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def calling(model, inputs, around=None):
    """Returns a function that calls the student without its labels, or what is around it."""
    read = model.prepare_decoder_input_ids_from_labels(labels=inputs["labels"])
    source = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    return lambda: (around or model)(**source, decoder_input_ids=read, use_cache=False)
