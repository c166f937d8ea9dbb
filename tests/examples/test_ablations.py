"""The paper's ablations from end to end with a few steps: models of one size, one loss, records that are kept."""

import json
from fractions import Fraction

import ablations
import pytest
import torch
from ablation_models import SPLITS, build
from ablations import main, table
from continuation_distiller import ContinuationDistiller, predictions
from datasets import Dataset
from spelling_teacher import build_teacher
from spelling_tokenizer import build_tokenizer

from encdec_slm.distillation import Objective


TOKENIZER = build_tokenizer(set("abcdefghijklmnopqrstuvwxyz"), {"K", "AE", "T"})


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_splits_have_one_number_of_parameters_and_layers_of_one_size(preset):
    models = {name: build(split, preset, TOKENIZER) for name, split in SPLITS.items()}
    most = max(model.num_parameters() for model in models.values())
    assert min(model.num_parameters() for model in models.values()) > 0.98 * most
    for name, model in models.items():
        if name == "decoder-only":
            continue
        encoder, decoder = (
            sum(weight.numel() for weight in stack.layers.parameters())
            for stack in (model.model.encoder, model.model.decoder)
        )
        assert model.config.decoder.cross_attention_rope == name.endswith("with places")
        share = float(Fraction(name.partition("-")[0]))
        assert encoder / (encoder + decoder) == pytest.approx(share, abs=0.01)


def test_too_few_layers_for_a_split_are_refused():
    with pytest.raises(ValueError, match=r"the 6 layers of tiny cannot be split none: one stack would have none"):
        build(ablations.Split("none", 0.01), "tiny", TOKENIZER)


def test_a_decoder_only_student_has_the_loss_of_the_formula():
    torch.manual_seed(0)
    student, teacher = build(SPLITS["decoder-only"], "tiny", TOKENIZER), build_teacher(TOKENIZER)
    ids = torch.tensor([[5, 6, 1, 7, 8, 2], [9, 1, 7, 2, 0, 0]])
    labels = torch.tensor([[-100, -100, -100, 7, 8, 2], [-100, -100, 7, 2, -100, -100]])
    inputs = {"input_ids": ids, "attention_mask": ids.ne(0).long(), "labels": labels}
    mask = labels[:, 1:] != -100
    own, other = (predictions(model, inputs).logits()[mask].log_softmax(-1) for model in (student, teacher))
    cross_entropy = -own.gather(1, labels[:, 1:][mask][:, None]).mean()
    divergence = (other.exp() * (other - own)).sum(-1).mean()
    assert torch.isclose(cross_entropy, student(**inputs).loss)
    for guide, alpha, expected in ((None, 0.3, cross_entropy), (teacher, 0.3, 0.7 * cross_entropy + 0.3 * divergence)):
        trainer = object.__new__(ContinuationDistiller)
        trainer.teacher = guide
        trainer.objective = Objective(alpha=0.0 if guide is None else alpha)
        torch.testing.assert_close(trainer.compute_loss(student, inputs), expected)


class FewWords:
    """A dictionary that is there at once."""

    def download_and_prepare(self):
        pass

    def as_dataset(self, split):
        words = ["cat", "tack", "act", "tact", "cattack", "tat", "at", "kat"]
        sounds = ["K AE T", "T AE K", "AE K T", "T AE K T", "K AE T AE K", "T AE T", "AE T", "K AE T"]
        return Dataset.from_dict({"source": words, "target": sounds, "pronunciations": [[one] for one in sounds]})


def test_every_arm_is_trained_once_and_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablations, "CMUDict", FewWords)
    tokenizer = TOKENIZER
    build_teacher(tokenizer).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    results = tmp_path / "results" / "ablations.json"
    flags = (
        "--words 8 --test_words 4 --seeds 1 --max_steps 1 --threads 1 --per_device_train_batch_size 8 "
        "--splits 1/3-2/3 decoder-only --disable_tqdm true --use_cpu true"
    )
    folders = ("--teacher", str(tmp_path / "teacher"), "--output_dir", str(tmp_path / "out"))
    threads = torch.get_num_threads()
    try:
        records = main([*folders, "--results", str(results), *flags.split()])
        capsys.readouterr()
        assert main([*folders, "--results", str(results), *flags.split()]) == records
    finally:
        torch.set_num_threads(threads)
    assert capsys.readouterr().out.count("done already") == 4
    assert len(json.loads(results.read_text())) == 4
    assert results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    rows = table(records).splitlines()[2:]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| 1/3-2/3", "CE"], ["| decoder-only", "CE"], ["| 1/3-2/3", "CE and KD"], ["| decoder-only", "CE and KD"],
    ]  # fmt: skip
