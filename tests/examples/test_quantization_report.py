"""The table of rounded weights, on a model of random weights and a few words."""

from string import ascii_lowercase

import quantization_report
from datasets import Dataset
from spelling_tokenizer import build_tokenizer

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration


class FewWords:
    def download_and_prepare(self):
        pass

    def as_dataset(self):
        words = {"source": ["cat", "tact", "act"], "target": ["K AE T", "T AE K T", "AE K T"]}
        return {"test": Dataset.from_dict({**words, "pronunciations": [[target] for target in words["target"]]})}


def test_table_says_what_each_dtype_costs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quantization_report, "CMUDict", FewWords)
    tokenizer = build_tokenizer(ascii_lowercase, ["K", "AE", "T"])
    config = EncDecSLMConfig.from_preset("tiny", vocab_size=len(tokenizer), initializer_range=0.09)
    EncDecSLMForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    rows = quantization_report.main(
        ["--model", str(tmp_path), "--new_tokens", "2", "--repeats", "1", "--input_length", "4"]
    )
    by_name = {row.name: row for row in rows}
    whole, eight = by_name["PyTorch float32"], by_name["PyTorch int8"]
    assert whole.mean_error == 0
    assert by_name["CTranslate2 fp32"].largest_error < 1e-4
    assert by_name["CTranslate2 fp32"].answers_equal == 1
    assert 0 < eight.mean_error < by_name["PyTorch int4"].mean_error
    assert by_name["PyTorch int4"].megabytes < eight.megabytes < 0.5 * whole.megabytes
    assert all(row.ms_per_token > 0 for row in rows)
    assert "| CTranslate2 int8 |" in capsys.readouterr().out
