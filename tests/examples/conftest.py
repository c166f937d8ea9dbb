"""The examples are scripts: what they import from each other is found as if one of them were run."""

import sys
from pathlib import Path

import datasets
import pytest
from transformers import LlamaConfig, LlamaForCausalLM


sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))


@pytest.fixture(autouse=True)
def _quiet_progress():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def few_emoji():
    """Of the emoji, four are in each split; the charts are few on request."""
    import vision_rows
    from data.emoji import QUESTIONS, EmojiPictures

    class FewEmoji(EmojiPictures):
        def as_dataset(self, **options):
            # each of these has a tag, too
            number = 4 * len(QUESTIONS)
            return {name: rows.select(range(number)) for name, rows in super().as_dataset(**options).items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vision_rows, "EmojiPictures", FewEmoji)
        yield


@pytest.fixture(scope="session")
def source(tmp_path_factory, tiny_tokenizer):
    """A decoder-only model of four layers."""
    folder = tmp_path_factory.mktemp("source")
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        bos_token_id=tiny_tokenizer.bos_token_id,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder
