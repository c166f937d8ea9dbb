"""The table of rounded weights, on a model of random weights and a few words."""

from string import ascii_lowercase

import quantization_report
import quantization_table
from datasets import Dataset
from readme_blocks import markers
from spelling_tokenizer import build_tokenizer

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration


ASKED = ("PyTorch bfloat16", "PyTorch int8", "PyTorch int4, head int8", "CTranslate2 fp32", "CTranslate2 int8")


class FewWords:
    def download_and_prepare(self):
        pass

    def as_dataset(self):
        words = {"source": ["cat", "tact", "act"], "target": ["K AE T", "T AE K T", "AE K T"]}
        rows = Dataset.from_dict({**words, "pronunciations": [[target] for target in words["target"]]})
        return {"train": rows, "test": rows}


def test_table_says_what_each_dtype_costs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(quantization_report, "CMUDict", FewWords)
    tokenizer = build_tokenizer(ascii_lowercase, ["K", "AE", "T"])
    config = EncDecSLMConfig.from_preset("tiny", vocab_size=len(tokenizer), initializer_range=0.09)
    EncDecSLMForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    rows = quantization_report.main(
        ["--model", str(tmp_path), "--new_tokens", "2", "--repeats", "1", "--input_length", "4",
         "--results", str(tmp_path / "quantization.json"), "--only", *ASKED]
    )  # fmt: skip
    by_name = {row.name: row for row in rows}
    assert list(by_name) == ["PyTorch float32", *ASKED]
    whole, eight, four = (by_name[f"PyTorch {name}"] for name in ("float32", "int8", "int4, head int8"))
    assert whole.mean_error == 0
    assert by_name["CTranslate2 fp32"].largest_error < 1e-4
    assert by_name["CTranslate2 fp32"].answers_equal == 1
    assert 0 < eight.mean_error < four.mean_error
    assert four.megabytes < eight.megabytes < by_name["PyTorch bfloat16"].megabytes < 0.6 * whole.megabytes
    assert all(row.ms_per_token > 0 for row in rows)
    assert "| CTranslate2 int8 |" in capsys.readouterr().out
    readme = tmp_path / "README.md"
    readme.write_text("\n".join(markers("quantization")))
    quantization_table.main(results=tmp_path, readme=readme)
    assert f"--only {' '.join(map(repr, ASKED))}`: 3 words" in readme.read_text()
    assert "| PyTorch float32 |" in readme.read_text()
