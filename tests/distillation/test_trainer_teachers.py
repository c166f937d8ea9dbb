"""Teachers of other kinds: adapters, what one has said before, the published code's, one with other tokens."""

import math

import pytest
import torch
from distillation_tester import (
    STUDENTS,
    arguments,
    batch,
    batches_of,
    by_hand,
    cached,
    difference,
    gradients,
    parts,
    rows,
    student,
    trainer,
    word_tokenizer,
)
from teacher_tester import adapter, llama_again

from encdec_slm.distillation import DistillationTrainer
from encdec_slm.distillation.original_loss import original_loss
from encdec_slm.distillation.step_loss import SAMPLES


families = pytest.mark.parametrize("family", STUDENTS)
MIXED = {"on_policy_fraction": 0.4, "teacher_samples_fraction": 0.3}


def logged(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


class TestAdaptersOfATeacher:
    @pytest.fixture
    def folders(self, tmp_path):
        return {name: adapter(tmp_path / name, seed) for seed, name in enumerate(("first", "second"))}

    def both(self, tmp_path, folders, **options):
        names = ["first", "second", "second", "first", "second", "first", "first", "second"]
        data = rows().add_column("teacher", names)
        tested = trainer(tmp_path, teacher_model=llama_again(), data=data, teacher_adapters=folders, **options)
        alone = {
            name: trainer(tmp_path, teacher_model=llama_again(), teacher_adapters=folder, **options)
            for name, folder in folders.items()
        }
        return tested, alone, names

    def test_read_the_rows_that_name_them(self, folders, tmp_path):
        tested, alone, names = self.both(tmp_path, folders)
        lengths = torch.tensor([len(labels) for labels in tested.train_dataset["labels"]])
        expected = torch.stack(
            [parts(alone[name], batch(alone[name], [i])).divergence for i, name in enumerate(names)]
        )
        others = torch.stack([parts(alone["first"], batch(alone["first"], [i])).divergence for i in range(8)])

        divergence = parts(tested, batch(tested)).divergence

        torch.testing.assert_close(divergence, (expected * lengths).sum() / lengths.sum(), rtol=1e-5, atol=0)
        assert abs((others * lengths).sum() / lengths.sum() - divergence) > 0.01

    def test_answer_the_rows_that_name_them(self, folders, tmp_path):
        tested, alone, names = self.both(tmp_path, folders, teacher_samples_fraction=1.0, learning_rate=0.0)

        def answers(trainer):
            kept = batches_of(trainer)
            trainer.train()
            sources, labels = kept[0]["input_ids"].tolist(), kept[0]["labels"]
            return {tuple(source): row[row != -100].tolist() for source, row in zip(sources, labels, strict=True)}

        found, expected = answers(tested), {name: answers(one) for name, one in alone.items()}
        place = {tuple(row): i for i, row in enumerate(batch(tested)["input_ids"].tolist())}
        assert len(found) == 8
        assert all(labels == expected[names[place[source]]][source] for source, labels in found.items())
        assert expected["first"] != expected["second"]


class TestCache:
    @families
    def test_gives_the_gradients_of_the_teachers_top_k(self, family, tmp_path):
        temperature = 2.0
        options = {"temperature": temperature, "alpha": 1.0, "gradient_accumulation_steps": 2}
        options |= {"per_device_train_batch_size": 2}
        live = trainer(tmp_path, student(family), top_k=8, **options)
        folder = cached(tmp_path / "cache", live, temperature=temperature)
        from_cache = trainer(tmp_path, student(family), teacher_cache=folder, **options)

        found, expected = gradients(from_cache), gradients(live)

        assert from_cache.teacher is None
        # of float16
        assert difference(found, expected) < 2e-3
        assert difference(gradients(trainer(tmp_path, student(family), **options)), expected) > 0.01

    def test_resumes_where_it_was(self, tmp_path):
        folder = cached(tmp_path / "cache", trainer(tmp_path))
        options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 3}
        whole, resumed = (trainer(tmp_path, teacher_cache=folder, **options) for _ in range(2))

        whole.train()
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))

        for name, value in whole.model.state_dict().items():
            torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=1e-6, atol=1e-7)

    def test_finds_the_teachers_tokenizer_where_the_teacher_is(self, tmp_path):
        repository = str(tmp_path / "repository")
        folder = cached(tmp_path / "cache", trainer(tmp_path), teacher_name=repository)
        word_tokenizer(end=None).save_pretrained(tmp_path / "repository" / "inside")

        tested = DistillationTrainer(
            student("ours"),
            repository,
            arguments(tmp_path, teacher_cache=folder, teacher_model_init_kwargs={"subfolder": "inside"}),
            train_dataset=rows(),
            processing_class=word_tokenizer(),
        )

        expected = trainer(tmp_path, student("ours"), teacher_cache=folder)
        assert difference(gradients(tested), gradients(expected)) == 0

    @families
    def test_is_not_needed_for_rows_to_answer(self, family, tmp_path):
        folder = cached(tmp_path / "cache", trainer(tmp_path))
        tested = trainer(tmp_path, student(family), teacher_cache=folder, predict_with_generate=True)

        output = tested.predict(rows(3, seed=5))

        assert len(output.predictions) == 3
        assert {"test_ce_loss"} == {name for name in output.metrics if name.endswith("loss")}


@families
class TestReproducedOriginal:
    def test_is_the_loss_of_the_published_code(self, family, tmp_path):
        tested = trainer(tmp_path, student(family), reproduce_original=True, alpha=0.9)
        inputs = batch(tested)
        read = {name: inputs[name] for name in ("input_ids", "attention_mask", "labels")}
        targets = inputs["labels"].clamp(min=0)
        mask = torch.cat([inputs["teacher_prompt_mask"], inputs["labels"].ne(-100).long()], dim=1)
        with torch.no_grad():
            own = tested.model.eval()(**read).logits
            said = tested.teacher.model(
                input_ids=torch.cat([inputs["teacher_prompt_ids"], targets], dim=1),
                attention_mask=mask,
                position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            ).logits[:, inputs["teacher_prompt_ids"].shape[1] - 1 : -1]

        loss = parts(tested, inputs)

        expected = original_loss(said, own, by_hand(tested)[0].mean().float(), alpha=0.9)
        torch.testing.assert_close(loss.loss, expected, rtol=1e-5, atol=0)

    def test_is_a_mean_over_batches(self, family, tmp_path):
        tested = trainer(
            tmp_path, student(family), reproduce_original=True, alpha=1.0, on_policy_fraction=1.0,
            per_device_train_batch_size=2, gradient_accumulation_steps=4, learning_rate=0.0, logging_steps=1,
        )  # fmt: skip
        kept = batches_of(tested)
        tested.train()

        of_batches = [parts(tested, inputs).divergence for inputs in kept]

        assert logged(tested)[0]["kd_loss"] == pytest.approx(float(torch.stack(of_batches).mean()), rel=1e-5)


@families
@pytest.mark.parametrize("sampled", [{"on_policy_fraction": 1.0}, MIXED])
def test_tokenizers_that_cut_a_text_otherwise(family, sampled, tiny_tokenizer, tmp_path):
    tested = trainer(
        tmp_path, student(family), divergence="universal", tokenizer=tiny_tokenizer, max_steps=3, logging_steps=1,
        per_device_train_batch_size=4, **sampled,
    )  # fmt: skip
    kept = batches_of(tested)
    tested.train()

    assert all(math.isfinite(entry["loss"]) for entry in logged(tested))
    # letters that the student puts together at random are no words of the teacher
    assert sampled.get("on_policy_fraction") == 1.0 or all(entry["kd_loss"] > 0 for entry in logged(tested))
    pairs = 0
    for inputs in kept:
        answered = [inputs, inputs[SAMPLES]] if SAMPLES in inputs else [inputs]
        for part in answered:
            for labels, others, aligned in zip(part["labels"], part["teacher_labels"], part["aligned"], strict=True):
                labels, others = labels[labels != -100], others[others != -100]
                for ours, theirs in aligned[aligned[:, 0] >= 0].tolist():
                    pairs += 1
                    text = tiny_tokenizer.decode(labels[:ours], skip_special_tokens=True)
                    read = tested.teacher.tokenizer.decode(others[:theirs], skip_special_tokens=True)
                    assert text.split() == read.split()
    assert pairs > 12
