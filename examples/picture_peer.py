"""A decoder-only model that sees, in the manner of LLaVA, to be compared with ours: the same tower, equal parameters.

The images and the question are its prompt, and it goes on with the answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from remembered_tower import RememberingTower
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from vision_model import INITIALIZER_RANGE, LONGEST_ANSWER, SHAPE
from vision_training import batches

from encdec_slm import EncDecSLMVisionForConditionalGeneration
from encdec_slm.image_text_collator import DataCollatorForImageTextToText
from encdec_slm.models.modeling_encdec_slm_vision_layers import pixel_shuffle


# as many parameters as the encoder-decoder, whose blocks have two matrices where these have three
PEER_SHAPE = {
    **{name: SHAPE[name] for name in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")},
    "max_position_embeddings": SHAPE["max_position_embeddings"],
    "intermediate_size": 576,
    "num_hidden_layers": 6,
    "tie_word_embeddings": True,
    "initializer_range": INITIALIZER_RANGE,
}


class PeerTower(nn.Module):
    """What has been seen of a picture, as the sequence that `LlavaModel` expects of a tower.

    Args:
        memory: Feature maps.
        shuffle: Side of the square of states that are joined to one.
    """

    def __init__(self, memory: RememberingTower, shuffle: int) -> None:
        super().__init__()
        self.memory = memory
        self.shuffle = shuffle

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Returns the hidden states of one layer, which is the last but one."""
        maps = self.memory(pixel_values, output_hidden_states=True).hidden_states[self.memory.layer]
        states = pixel_shuffle(maps.flatten(2).transpose(1, 2), self.shuffle)
        return BaseModelOutputWithPooling(hidden_states=(states, states))


def build_text_peer(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A decoder-only text model with random weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **PEER_SHAPE,
    )
    return LlamaForCausalLM(config)


def build_vision_peer(
    text_model: LlamaForCausalLM, like: EncDecSLMVisionForConditionalGeneration, memory: RememberingTower
) -> LlavaForConditionalGeneration:
    """A text model that is given the tower of another model.

    Args:
        text_model: Its weights are copied.
        like: An encoder-decoder that has the tower, and joins its states by pixel shuffle or not at all.
        memory: What its tower has seen.
    """
    encoder = like.config.encoder
    tower = {
        **encoder.vision_config.to_dict(),
        "hidden_size": encoder.vision_hidden_size * encoder.pixel_shuffle_factor**2,
    }
    config = LlavaConfig(
        vision_config=tower,
        text_config=text_model.config,
        image_token_index=like.config.image_token_id,
        image_seq_length=encoder.image_geometry.patches_per_side**2,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower = PeerTower(memory, encoder.pixel_shuffle_factor)
    model.model.language_model.load_state_dict(text_model.model.state_dict())
    model.tie_weights()
    return model


class PeerCollator:
    """Rows as one sequence of prompt and answer, of which the answer is to be learned.

    Args:
        processor: Of the encoder-decoder: the same tokens, and as many for a picture.
    """

    def __init__(self, processor: ProcessorMixin) -> None:
        self.tokenizer = processor.tokenizer
        self.rows = DataCollatorForImageTextToText(processor)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns a batch, padded on the right."""
        batch = self.rows(rows)
        prompts = [ids[mask.bool()] for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
        targets = [ids[ids != -100] for ids in batch.pop("labels")]
        ignored = [torch.full_like(prompt, -100) for prompt in prompts]
        ids, labels, mask = (
            nn.utils.rnn.pad_sequence(lines, batch_first=True, padding_value=padding)
            for lines, padding in (
                (joined(prompts, targets), self.tokenizer.pad_token_id),
                (joined(ignored, targets), -100),
                ([torch.ones_like(line) for line in joined(prompts, targets)], 0),
            )
        )
        return {**batch, "input_ids": ids, "attention_mask": mask, "labels": labels}


def joined(prompts: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Each prompt with its target behind it."""
    return [torch.cat(pair) for pair in zip(prompts, targets, strict=True)]


@torch.no_grad()
def peer_answers(model: PreTrainedModel, rows: Dataset, processor: ProcessorMixin) -> list[str]:
    """Greedy answers, as `answers` of an encoder-decoder."""
    model.eval()
    found: list[str] = []
    for batch in batches(rows):
        images = [row["images"] for row in batch]
        # it goes on from the last column
        inputs = processor(
            text=[row["source"] for row in batch],
            images=images,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(model.device)
        ids = model.generate(**inputs, max_new_tokens=LONGEST_ANSWER, do_sample=False)
        answered = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        found += [text.strip() for text in answered]
    return found
