"""The comparison of ways to decode: all give one answer, and steps and tokens are counted right."""

import assisted_speed
import assisted_speed_report
import torch
from readme_blocks import markers


def test_all_ways_give_the_greedy_answer(tmp_path):
    flags = {
        "output_dir": tmp_path, "max_steps": 1, "input_length": 12, "excerpt_length": 6, "inputs": 2, "repeats": 1,
        "results": tmp_path / "assisted_speed.json",
    }  # fmt: skip
    results = assisted_speed.main([text for name, value in flags.items() for text in (f"--{name}", str(value))])
    assert results[0].name == "greedy"
    assert results[0].tokens_per_step == 1
    assert results[0].ratio == 1
    assert all(row.equal == 1 and row.tokens_per_step >= 1 for row in results)
    # a step is not enough to learn it
    assert all(row.right == 0 for row in results)
    readme = tmp_path / "README.md"
    readme.write_text("\n".join(markers("assisted")))
    assisted_speed_report.main(results=tmp_path, readme=readme)
    assert (
        "--max_steps 1 --input_length 12 --excerpt_length 6 --inputs 2 --repeats 1 --threads 1`" in readme.read_text()
    )
    assert "| greedy | 1.00 |" in readme.read_text()


def test_answers_stand_in_the_inputs():
    batch = assisted_speed.excerpts(3, assisted_speed.AssistedArguments(input_length=12, excerpt_length=6))
    for row, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        begin = int((row == assisted_speed.OPENING).nonzero()[0])
        assert torch.equal(row[begin + 1 : begin + 7], labels[:-1])
        assert row[begin + 7] == assisted_speed.CLOSING
        assert labels[-1] == assisted_speed.END
