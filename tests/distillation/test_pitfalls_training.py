"""Pitfalls of training and evaluation, each a test by its name."""

import math

import pytest
import torch
from distillation_tester import (
    EOS,
    STUDENTS,
    batch,
    batches_of,
    by_hand,
    difference,
    gradients,
    parts,
    rows,
    student,
    teacher,
    trainer,
    word_tokenizer,
)
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from teacher_tester import adapter, llama_again
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from encdec_slm.distillation.sampled_targets import TEACHER_ROWS
from encdec_slm.distillation.step_loss import ROWS, SAMPLES


families = pytest.mark.parametrize("family", STUDENTS)
MIXED = {"on_policy_fraction": 0.4, "teacher_samples_fraction": 0.3}
# rows in a batch, and batches in a step
DIVISIONS = [(4, 1), (2, 2), (1, 4)]


def divided(rows_of_batch, batches_of_step):
    return {"per_device_train_batch_size": rows_of_batch, "gradient_accumulation_steps": batches_of_step}


def stock_trainer(folder, model, division):
    options = {"max_steps": 1, "report_to": "none", "disable_tqdm": True, "use_cpu": True, "max_grad_norm": 0.0}
    encoded = trainer(folder, student("t5"), alpha=0.0).train_dataset.remove_columns("teacher_prompt_ids")
    return Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(str(folder), **options, **divided(*division)),
        train_dataset=encoded,
        data_collator=DataCollatorForSeq2Seq(word_tokenizer()),
        processing_class=word_tokenizer(),
    )


class TestPitfall08GradientAccumulation:
    @pytest.mark.parametrize("family", [*STUDENTS, "t5gemma"])
    @pytest.mark.parametrize("sampled", [{}, MIXED], ids=["gold", "all_kinds_of_rows"])
    def test_pitfall_08_gradient_accumulation(self, family, sampled, tmp_path):
        found, kinds = [], set()
        for division in DIVISIONS:
            # of six rows, every second step has two
            tested = trainer(
                tmp_path, student(family), data=rows(6), learning_rate=0.0, **divided(*division), **sampled
            )
            kept = batches_of(tested)
            found.append(gradients(tested, steps=3))
            for inputs in kept:
                kinds |= {name for name in (SAMPLES, TEACHER_ROWS) if name in inputs}

        assert max(difference(other, found[0]) for other in found[1:]) < 1e-5
        wanted = {"on_policy_fraction": SAMPLES, "teacher_samples_fraction": TEACHER_ROWS}
        assert kinds == {wanted[name] for name in sampled}

    def test_pitfall_08_universal_divergence(self, tmp_path):
        found = [
            gradients(
                trainer(
                    tmp_path,
                    data=rows(6),
                    divergence="universal",
                    learning_rate=0.0,
                    **divided(*division),
                    **MIXED,
                ),
                steps=3,
            )
            for division in DIVISIONS
        ]

        assert max(difference(other, found[0]) for other in found[1:]) < 1e-5

    @pytest.mark.parametrize("family", ["t5", "bart"])
    def test_pitfall_08_stock_trainer_is_wrong(self, family, tmp_path):
        whole, accumulated = (
            gradients(stock_trainer(tmp_path, student(family), division)) for division in (DIVISIONS[0], DIVISIONS[-1])
        )
        ours = gradients(trainer(tmp_path, student(family), alpha=0.0, **divided(*DIVISIONS[-1])))

        assert accumulated.norm() > 2 * whole.norm()
        # in one batch it is right, and so are we in four
        assert difference(ours, whole) < 1e-5


@families
@pytest.mark.parametrize("sampled", [{}, MIXED], ids=["gold", "sampled"])
def test_pitfall_10_teacher_is_frozen(family, sampled, tmp_path):
    base = teacher()
    adapted = get_peft_model(base, LoraConfig(lora_dropout=0.5, init_lora_weights=False, task_type="CAUSAL_LM"))
    tested = trainer(
        tmp_path, student(family), teacher_model=adapted, eval_dataset=rows(3), max_steps=2, eval_steps=1,
        eval_strategy="steps", **sampled,
    )  # fmt: skip
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    modes = []
    # as somebody might who switches all models to training
    adapted.train()
    adapted.register_forward_pre_hook(
        lambda model, inputs: modes.append((model.training, torch.is_grad_enabled())), prepend=True
    )

    tested.train()

    assert set(modes) == {(False, False)}
    assert not any(module.training for module in adapted.modules())
    assert not any(p.requires_grad or p.grad is not None for p in adapted.parameters())
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())
    assert not any(module is base for module in tested.model_wrapped.modules())


@families
def test_pitfall_13_merged_adapter(family, tmp_path):
    folder = adapter(tmp_path / "adapter", 0)
    base, separate, merged = (
        gradients(trainer(tmp_path, student(family), teacher_model=llama_again(), alpha=1.0, **options))
        for options in ({}, {"teacher_adapters": folder}, {"teacher_adapters": folder, "merge_teacher_adapter": True})
    )

    assert difference(merged, separate) < 1e-5
    assert difference(base, separate) > 0.01


class TestPitfall17Evaluation:
    @pytest.mark.parametrize("family", STUDENTS)
    @pytest.mark.parametrize("size", [1, 3])
    def test_pitfall_17_losses_are_means_over_gold_tokens(self, family, size, tmp_path):
        tested = trainer(
            tmp_path,
            student(family, dropout=0.3),
            data=rows(7),
            eval_dataset=rows(7),
            per_device_eval_batch_size=size,
            alpha=0.3,
            on_policy_fraction=1.0,
        )
        cross_entropies, divergences = by_hand(tested)

        first, second = tested.evaluate(), tested.evaluate()

        assert first["eval_ce_loss"] == pytest.approx(float(cross_entropies.mean()), rel=1e-5)
        assert first["eval_kd_loss"] == pytest.approx(float(divergences.mean()), rel=1e-5)
        assert first["eval_loss"] == pytest.approx(0.7 * first["eval_ce_loss"] + 0.3 * first["eval_kd_loss"], rel=1e-6)
        assert all(first[name] == second[name] for name in ("eval_ce_loss", "eval_kd_loss", "eval_loss"))

    @pytest.mark.parametrize("family", STUDENTS)
    @pytest.mark.parametrize("generate", [True, False])
    def test_pitfall_17_metrics_beside_losses(self, family, generate, tmp_path):
        seen = []

        def metrics(prediction):
            seen.append(prediction)
            return {"rows": len(prediction.label_ids)}

        options = {
            "data": rows(5),
            "eval_dataset": rows(5),
            "per_device_eval_batch_size": 2,
            "on_policy_fraction": 0.5,
        }
        plain = trainer(tmp_path, student(family), **options).evaluate()
        tested = trainer(
            tmp_path,
            student(family),
            predict_with_generate=generate,
            generation_max_length=6,
            compute_metrics=metrics,
            **options,
        )

        found = tested.evaluate()

        losses = ("eval_loss", "eval_ce_loss", "eval_kd_loss")
        assert found["eval_rows"] == 5
        assert [found[name] for name in losses] == pytest.approx([plain[name] for name in losses])
        labels = [[i for i in row if i != -100] for row in seen[0].label_ids.tolist()]
        assert labels == tested.train_dataset["labels"]
        if generate:
            assert all(
                answer[: len(row)] == row
                for answer, row in zip(seen[0].predictions.tolist(), generated(tested), strict=True)
            )
        else:
            # of the labels' positions, as those that the loss is made of
            logits = torch.as_tensor(seen[0].predictions[0])
            expected = torch.nn.functional.cross_entropy(
                logits.flatten(end_dim=1), torch.as_tensor(seen[0].label_ids).flatten()
            )
            assert float(expected) == pytest.approx(found["eval_ce_loss"], rel=1e-5)


def generated(trainer):
    """What the student answers to each row alone."""
    return [
        trainer.model.generate(torch.tensor([row["input_ids"]]), max_length=6)[0].tolist()
        for row in trainer.train_dataset
    ]


@families
def test_pitfall_18_resume(family, tmp_path):
    def new():
        return trainer(
            tmp_path, student(family, dropout=0.1), max_steps=6, save_strategy="steps", save_steps=3, logging_steps=1,
            per_device_train_batch_size=2, gradient_accumulation_steps=2, **MIXED,
        )  # fmt: skip

    whole, resumed = new(), new()
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))

    logged = [
        [
            (entry["step"], *(entry[name] for name in ("loss", "ce_loss", "kd_loss")))
            for entry in log
            if "loss" in entry
        ]
        for log in (whole.state.log_history, resumed.state.log_history)
    ]
    assert [entry[0] for entry in logged[0]] == list(range(1, 7))
    torch.testing.assert_close(torch.tensor(logged[1]), torch.tensor(logged[0]), rtol=1e-6, atol=0)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=1e-6, atol=1e-7)


@families
def test_pitfall_18_checkpoint_is_the_student_alone(family, tmp_path):
    tested = trainer(tmp_path, student(family), save_strategy="steps", save_steps=1)
    tested.train()

    folder = tmp_path / "checkpoint-1"
    loaded, info = AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)

    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert set(load_file(folder / "model.safetensors")) <= set(tested.model.state_dict())
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(tested.model.state_dict()[name], value, rtol=0, atol=0)


@families
def test_pitfall_20_cache_of_generation(family, tmp_path):
    tested = trainer(tmp_path, student(family), on_policy_fraction=1.0)
    config = tested.model.generation_config
    found = []

    # that of the user's own `generate`: a quantised one is for decoder-only models and would stop the sampling
    for implementation in (None, "dynamic", "static", "quantized"):
        config.cache_implementation = implementation
        found.append(tested._with_samples(batch(tested))[SAMPLES]["labels"])
        assert tested.model.generation_config is config
        assert config.cache_implementation == implementation

    assert all(torch.equal(samples, found[0]) for samples in found[1:])


@families
class TestPitfall21EndsOfSamples:
    def test_pitfall_21_samples_end_once_and_their_tokens_count(self, family, tmp_path):
        # the padding is the end itself
        tokenizer = word_tokenizer(pad_token="</s>")
        tested = trainer(
            tmp_path, student(family), tokenizer=tokenizer, on_policy_fraction=1.0, max_steps=4, learning_rate=0.0
        )
        kept = batches_of(tested)
        tested.train()

        samples = [row[row != -100].tolist() for inputs in kept for row in inputs[SAMPLES]["labels"]]
        assert all(EOS not in row[:-1] for row in samples)
        assert any(row[-1] == EOS for row in samples)
        assert all(row[-1] == EOS or len(row) == tested.args.max_target_length for row in samples)
        for inputs in kept:
            of_batch = [row[row != -100] for row in inputs[SAMPLES]["labels"]]
            assert int(inputs["num_divergence_items"]) == sum(map(len, of_batch))
            assert inputs[SAMPLES][ROWS].tolist() == list(range(8))

    @pytest.mark.parametrize("bias", [math.inf, -math.inf])
    def test_pitfall_21_rows_that_end_at_once_or_never(self, family, bias, tmp_path):
        model = student(family)
        tested = trainer(tmp_path, model, on_policy_fraction=1.0, max_steps=2, learning_rate=0.0)
        ends = torch.zeros(60).index_fill(0, torch.tensor(EOS), 1e4 if bias > 0 else -1e4)
        # of what is sampled, not of what is learned from: that is made of the head's weight
        model.get_output_embeddings().register_forward_hook(lambda head, inputs, logits: logits + ends)
        kept = batches_of(tested)

        loss = tested.train().training_loss

        lengths = {int(n) for inputs in kept for n in inputs[SAMPLES]["labels"].ne(-100).sum(dim=1)}
        assert lengths == ({1} if bias > 0 else {tested.args.max_target_length})
        assert math.isfinite(loss)
        assert loss > 0

    def test_pitfall_21_loss_is_that_on_the_samples(self, family, tmp_path):
        tested = trainer(tmp_path, student(family), alpha=1.0, on_policy_fraction=1.0, learning_rate=0.0)
        kept = batches_of(tested)
        tested.train()
        samples = kept[0][SAMPLES]["labels"]
        answered = {**batch(tested), **{name: kept[0][name] for name in ("input_ids", "attention_mask")}}
        answered |= {name: kept[0][name] for name in ("teacher_prompt_ids", "teacher_prompt_mask")}

        as_gold = parts(tested, {**answered, "labels": samples})

        torch.testing.assert_close(parts(tested, kept[0]).divergence, as_gold.divergence, rtol=1e-5, atol=0)
