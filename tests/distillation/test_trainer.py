"""What a trainer is given and what it gives: models by name, adapters, datasets of any kind, logs and samples."""

import json

import pytest
import torch
from datasets import Dataset
from distillation_tester import (
    STUDENTS,
    arguments,
    batch,
    batches_of,
    difference,
    gradients,
    parts,
    rows,
    student,
    teacher,
    trainer,
    word_tokenizer,
)
from peft import LoraConfig
from transformers import HfArgumentParser

from encdec_slm.distillation import DistillationArguments, DistillationTrainer
from encdec_slm.distillation.sampled_targets import TEACHER_ROWS
from encdec_slm.distillation.step_loss import SAMPLES


families = pytest.mark.parametrize("family", STUDENTS)
MIXED = {"on_policy_fraction": 0.4, "teacher_samples_fraction": 0.3}
LORA = LoraConfig(target_modules=["q", "v", "q_proj", "v_proj"], task_type="SEQ_2_SEQ_LM")
LOSSES = ("eval_loss", "eval_ce_loss", "eval_kd_loss")


def logged(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


class TestArguments:
    def test_are_read_from_a_command_line(self, tmp_path):
        (args,) = HfArgumentParser(DistillationArguments).parse_args_into_dataclasses(
            [
                *("--output_dir", str(tmp_path), "--alpha", "0.9", "--divergence", "jsd", "--use_cpu", "True"),
                *(
                    "--teacher_adapters",
                    '{"first": "a", "second": "b"}',
                    "--teacher_model_init_kwargs",
                    '{"dtype": "auto"}',
                ),
            ]
        )

        assert (args.alpha, args.divergence, args.remove_unused_columns) == (0.9, "jsd", False)
        assert args.teacher_adapters == {"first": "a", "second": "b"}
        assert args.teacher_model_init_kwargs == {"dtype": "auto"}


class TestModels:
    @pytest.mark.parametrize("family", STUDENTS)
    def test_may_be_names(self, family, tmp_path):
        for name, model, tokenizer in (
            ("student", student(family), word_tokenizer()),
            ("teacher", teacher(), word_tokenizer(end=None)),
        ):
            model.save_pretrained(tmp_path / name)
            tokenizer.save_pretrained(tmp_path / name)

        named = DistillationTrainer(
            str(tmp_path / "student"),
            str(tmp_path / "teacher"),
            arguments(
                tmp_path, model_init_kwargs={"dtype": "float32"}, teacher_model_init_kwargs={"dtype": "float32"}
            ),
            train_dataset=rows(),
        )

        assert difference(gradients(named), gradients(trainer(tmp_path, student(family)))) < 1e-6

    @pytest.mark.parametrize("family", STUDENTS)
    def test_learn(self, family, tmp_path):
        tested = trainer(tmp_path, student(family), eval_dataset=rows(), max_steps=15)
        before = tested.evaluate()

        tested.train()

        after = tested.evaluate()
        assert all(after[name] < 0.9 * before[name] for name in LOSSES)

    @pytest.mark.parametrize("family", STUDENTS)
    def test_learn_at_the_pace_that_each_part_is_told(self, family, tmp_path):
        cross_attention = "EncDecAttention" if family == "t5" else "encoder_attn"
        paces = {"freeze": [r"encoder\.(block|layers)\."], "learning_rate_multipliers": [f"{cross_attention}=10"]}
        before = dict(student(family).named_parameters())
        plain, tested = (trainer(tmp_path, student(family), optim="sgd", **chosen) for chosen in ({}, paces))

        plain.train()
        tested.train()

        steps = {name: value - before[name] for name, value in plain.model.named_parameters()}
        for name, value in tested.model.named_parameters():
            is_frozen = "encoder.block." in name or "encoder.layers." in name
            pace = 0 if is_frozen else 10 if cross_attention in name else 1
            torch.testing.assert_close(value, before[name] + pace * steps[name], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("family", STUDENTS)
    def test_may_be_checkpointed(self, family, tmp_path):
        plain, checkpointed = (
            gradients(trainer(tmp_path, student(family), activation_checkpointing=choice, **MIXED))
            for choice in (False, True)
        )

        assert difference(checkpointed, plain) < 1e-5

    @pytest.mark.parametrize("family", STUDENTS)
    def test_is_an_adapter_that_is_trained_alone(self, family, tmp_path):
        tested = trainer(tmp_path, student(family), peft_config=LORA, max_steps=2, **MIXED)
        before = {name: value.clone() for name, value in tested.model.state_dict().items()}

        tested.train()

        changed = {name for name, value in tested.model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed
        assert all("lora_" in name for name in changed)

    @pytest.mark.parametrize("family", STUDENTS)
    def test_own_base_is_a_teacher_that_agrees_at_first(self, family, tmp_path):
        at_first = trainer(tmp_path, student(family, dropout=0.1), alone=True, peft_config=LORA, alpha=1.0)
        assert at_first.teacher is None
        assert float(parts(at_first, batch(at_first)).loss) == pytest.approx(0.0, abs=1e-6)

        learned = trainer(
            tmp_path, student(family), alone=True, peft_config=LORA, alpha=0.1, max_steps=6, logging_steps=1,
            learning_rate=0.1,
        )  # fmt: skip
        learned.train()
        divergences = [entry["kd_loss"] for entry in logged(learned)]
        assert divergences[0] == pytest.approx(0.0, abs=1e-6)
        assert divergences[-1] > 1e-4


class TestDatasets:
    def test_of_evaluation_may_be_several(self, tmp_path):
        several = {"first": rows(5), "second": rows(4, seed=1)}

        found = trainer(tmp_path, eval_dataset=several).evaluate()

        for name, data in several.items():
            alone = trainer(tmp_path).evaluate(data)
            assert all(found[f"eval_{name}_{loss[5:]}"] == pytest.approx(alone[loss]) for loss in LOSSES)

    @pytest.mark.parametrize("generate", [True, False])
    def test_of_text_may_be_predicted(self, generate, tmp_path):
        tested = trainer(tmp_path, predict_with_generate=generate, generation_max_length=6)

        output = tested.predict(rows(3, seed=1))

        losses = tested.evaluate(rows(3, seed=1))
        assert [output.metrics[f"test_{name[5:]}"] for name in LOSSES] == [losses[name] for name in LOSSES]
        assert len(output.predictions if generate else output.predictions[0]) == 3

    def test_of_ids_are_those_of_their_text(self, tmp_path):
        encoded = trainer(tmp_path).train_dataset

        assert difference(gradients(trainer(tmp_path, data=encoded)), gradients(trainer(tmp_path))) < 1e-7

    @pytest.mark.parametrize("options", [{}, MIXED, {"divergence": "universal"}])
    def test_may_be_streams(self, options, tmp_path):
        # an epoch of the stream has one step, and a batch that is left out
        settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 0.0}
        settings |= {"max_steps": 4, "logging_steps": 2, **options}
        streamed = trainer(tmp_path, data=rows(6).to_iterable_dataset(), **settings)
        listed = trainer(tmp_path, data=rows(6).take(4), train_sampling_strategy="sequential", **settings)

        streamed.train()
        listed.train()

        for found, expected in zip(logged(streamed), logged(listed), strict=True):
            names = ("loss", "ce_loss", "kd_loss", "grad_norm")
            assert [found[name] for name in names] == pytest.approx([expected[name] for name in names], rel=1e-5)

    def test_may_be_of_messages(self, tmp_path):
        tokenizer = word_tokenizer(end=None)
        tokenizer.chat_template = "{% for m in messages %}{{ m.content }} </s> {% endfor %}"
        messages = [
            [{"role": "user", "content": row["source"]}, {"role": "assistant", "content": row["target"]}]
            for row in rows()
        ]
        told = trainer(tmp_path, teacher_tokenizer=tokenizer, data=Dataset.from_dict({"messages": messages}))
        written = trainer(tmp_path, teacher_tokenizer=tokenizer)

        assert difference(gradients(told), gradients(written)) < 1e-7


class TestLogs:
    def test_losses_are_means_over_the_steps_since_the_last_time(self, tmp_path):
        every = trainer(tmp_path, max_steps=4, logging_steps=1, alpha=0.3, **MIXED)
        second = trainer(tmp_path, max_steps=4, logging_steps=2, alpha=0.3, **MIXED)
        every.train()
        second.train()

        of_steps = logged(every)
        for entry in of_steps:
            assert entry["loss"] == pytest.approx(0.7 * entry["ce_loss"] + 0.3 * entry["kd_loss"], rel=1e-5)
        for entry, pair in zip(logged(second), (of_steps[:2], of_steps[2:]), strict=True):
            for name in ("loss", "ce_loss", "kd_loss"):
                assert entry[name] == pytest.approx(sum(one[name] for one in pair) / 2, rel=1e-5)

    @pytest.mark.parametrize("family", STUDENTS)
    def test_losses_are_means_over_what_was_learned(self, family, tmp_path):
        tested = trainer(tmp_path, student(family), max_steps=3, logging_steps=1, learning_rate=0.0, **MIXED)
        kept = batches_of(tested)
        tested.train()

        for entry, inputs in zip(logged(tested), kept, strict=True):
            del inputs["num_divergence_items"]
            loss = parts(tested, inputs)
            assert entry["ce_loss"] == pytest.approx(float(loss.cross_entropy), rel=1e-5)
            assert entry["kd_loss"] == pytest.approx(float(loss.divergence), rel=1e-5)

    @pytest.mark.parametrize("options", [{}, MIXED, {"alpha": 0.0}])
    def test_seconds_are_those_of_a_step(self, options, tmp_path):
        tested = trainer(tmp_path, max_steps=2, logging_steps=2, gradient_accumulation_steps=2, **options)

        whole = tested.train().metrics["train_runtime"]

        seconds = {name: value for name, value in logged(tested)[0].items() if name.endswith("_seconds")}
        wanted = {"student_seconds"} | ({"teacher_seconds"} if tested.args.alpha > 0 else set())
        assert set(seconds) == wanted | ({"sampling_seconds"} if options is MIXED else set())
        assert all(value > 0 for value in seconds.values())
        assert 2 * sum(seconds.values()) <= whole

    def test_samples_are_what_was_trained_on(self, tmp_path):
        tested = trainer(
            tmp_path, max_steps=3, logging_steps=1, log_samples=100, per_device_train_batch_size=8, **MIXED
        )
        kept = batches_of(tested)
        tested.train()

        records = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
        texts = {row["source"]: row["target"] for row in rows()}
        answers = {"student": set(), "teacher": set()}
        for inputs in kept:
            for by, labels in (
                ("student", inputs[SAMPLES]["labels"]),
                ("teacher", inputs["labels"][inputs[TEACHER_ROWS]]),
            ):
                read = tested.processing_class.batch_decode(
                    labels.masked_fill(labels == -100, 2), skip_special_tokens=True
                )
                answers[by] |= set(read)
        assert {record["by"] for record in records} == {"student", "teacher"}
        assert {record["step"] for record in records} == {1, 2, 3}
        for by, expected in answers.items():
            assert {record["answer"] for record in records if record["by"] == by} == expected
        for record in records:
            assert record["source"] in texts
            assert record["by"] == "teacher" or record["target"] == texts[record["source"]]

    def test_samples_are_as_many_as_wanted(self, tmp_path):
        tested = trainer(
            tmp_path,
            eval_dataset=rows(7),
            max_steps=4,
            logging_steps=2,
            log_samples=3,
            on_policy_fraction=1.0,
            predict_with_generate=True,
            per_device_eval_batch_size=2,
            generation_max_length=6,
            compute_metrics=lambda prediction: {},
        )
        tested.train()
        tested.evaluate()

        records = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
        assert [record["step"] for record in records] == [2] * 3 + [4] * 3 + [4] * 3
        assert all(set(record) == {"step", "by", "source", "answer", "target"} for record in records)
