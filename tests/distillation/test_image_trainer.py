"""A student that reads images learns from a teacher that reads them by a processor of its own."""

import copy
import json

import pytest
import torch
from datasets import Dataset
from distillation_tester import (
    WORDS,
    arguments,
    batch,
    batches_of,
    difference,
    gradients,
    parts,
    teacher,
    word_tokenizer,
)
from image_tester import (
    IMAGE_WORDS,
    SIZES,
    SPECIAL,
    TEACHERS,
    image_losses_by_hand,
    image_rows,
    image_teacher,
    image_trainer,
    picture,
    t5gemma2,
    vision_student,
)
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from teacher_tester import STRONG

from encdec_slm.distillation import DistillationTrainer
from encdec_slm.distillation.cache_writer import write_teacher_cache
from encdec_slm.distillation.step_loss import SAMPLES


teachers = pytest.mark.parametrize("name", TEACHERS)
MIXED = {"on_policy_fraction": 0.5, "teacher_samples_fraction": 0.3}
LORA = LoraConfig(target_modules=["q_proj", "v_proj"], task_type="SEQ_2_SEQ_LM")


def logged(trainer, name="kd_loss"):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


class TestLoss:
    @teachers
    def test_is_that_of_both_models_asked_by_hand(self, name, tmp_path):
        tested = image_trainer(tmp_path, name, alpha=0.3)

        loss = parts(tested, batch(tested))

        cross_entropies, divergences = image_losses_by_hand(tested, name, image_rows())
        assert float(loss.cross_entropy) == pytest.approx(float(cross_entropies.mean()), rel=1e-5)
        assert float(loss.divergence) == pytest.approx(float(divergences.mean()), rel=1e-5)

    @teachers
    def test_of_a_batch_is_that_of_its_rows_in_any_order(self, name, tmp_path):
        tested = image_trainer(tmp_path, name)
        order = [5, 0, 3, 1, 7, 2]
        lengths = torch.tensor([len(tested.train_dataset[i]["labels"]) for i in order])
        alone = torch.stack([parts(tested, batch(tested, [i])).divergence for i in order])

        together = parts(tested, batch(tested, order)).divergence

        torch.testing.assert_close(together, (alone * lengths).sum() / lengths.sum(), rtol=1e-5, atol=0)

    def test_depends_on_what_the_images_show(self, tmp_path):
        tested = image_trainer(tmp_path)
        others = image_rows(images=[[picture(*size, seed=1) for size in sizes] for sizes in SIZES])
        changed = image_trainer(tmp_path, data=others)

        with_image, without = ([parts(one, batch(one, [i])) for one in (tested, changed)] for i in (0, 1))

        assert abs(with_image[0].divergence - with_image[1].divergence) > 1e-3
        assert abs(with_image[0].cross_entropy - with_image[1].cross_entropy) > 1e-3
        assert torch.equal(without[0].divergence, without[1].divergence)

    def test_is_zero_for_a_student_that_agrees_with_its_own_base(self, tmp_path):
        student, processor = vision_student()
        own = DistillationTrainer(
            student,
            args=arguments(tmp_path, alpha=1.0),
            train_dataset=image_rows(),
            processing_class=processor,
            peft_config=LORA,
        )

        assert float(parts(own, batch(own)).loss) == pytest.approx(0.0, abs=1e-6)

    def test_is_taken_on_fewer_states_where_the_encoder_averages_those_of_images(self, tmp_path):
        tested = image_trainer(tmp_path, model=vision_student(image_state_pooling=3), **MIXED)

        loss = parts(tested, batch(tested))

        cross_entropies, divergences = image_losses_by_hand(tested, "llava", image_rows())
        assert float(loss.cross_entropy) == pytest.approx(float(cross_entropies.mean()), rel=1e-5)
        assert float(loss.divergence) == pytest.approx(float(divergences.mean()), rel=1e-5)
        tested.train()


class TestGradients:
    @teachers
    def test_do_not_depend_on_how_a_step_is_divided(self, name, tmp_path):
        found = [
            gradients(
                image_trainer(
                    tmp_path, name, per_device_train_batch_size=size, gradient_accumulation_steps=4 // size,
                    learning_rate=0.0, **MIXED,
                ),
                steps=1,
            )
            for size in (4, 2, 1)
        ]  # fmt: skip

        assert difference(found[1], found[0]) < 1e-5
        assert difference(found[2], found[0]) < 1e-5

    def test_do_not_depend_on_how_much_is_padded(self, tmp_path):
        plain, padded = (gradients(image_trainer(tmp_path, pad_to_multiple_of=size)) for size in (None, 64))

        assert difference(padded, plain) < 1e-5

    @pytest.mark.parametrize("options", [{"top_k": 8}, {"divergence": "jsd", "chunk_size": 3}])
    def test_do_not_depend_on_where_images_come_from(self, options, tmp_path):
        data = image_rows()
        folder = tmp_path / "images"
        folder.mkdir()
        paths = []
        for i, row in enumerate(data):
            paths.append([str(folder / f"{i}_{j}.png") for j in range(len(row["images"]))])
            for image, path in zip(row["images"], paths[-1], strict=True):
                image.save(path)
        texts = data.select_columns(["source", "target"])
        in_files = Dataset.from_dict({"images": paths, **texts[:]})

        found = gradients(image_trainer(tmp_path, data=in_files, **options))

        assert difference(found, gradients(image_trainer(tmp_path, data=data, **options))) < 1e-7

    def test_of_a_stream_are_those_of_a_list(self, tmp_path):
        options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 0.0}
        stream = image_trainer(tmp_path, data=image_rows().to_iterable_dataset(), **options)

        assert difference(gradients(stream), gradients(image_trainer(tmp_path, **options))) < 1e-5

    def test_of_a_text_only_batch_leave_the_tower_alone(self, tmp_path):
        data = image_rows(4, images=[[]] * 4)
        plain = data.remove_columns("images")
        found, expected = (gradients(image_trainer(tmp_path, data=rows)) for rows in (data, plain))

        assert difference(found, expected) < 1e-6


class TestTraining:
    @teachers
    def test_brings_the_student_nearer_to_the_teacher(self, name, tmp_path):
        tested = image_trainer(
            tmp_path, name, max_steps=10, logging_steps=5, alpha=0.9, eval_dataset=image_rows(),
            on_policy_fraction=0.3, teacher_samples_fraction=0.2,
        )  # fmt: skip
        before = tested.evaluate()["eval_kd_loss"]

        tested.train()

        assert tested.evaluate()["eval_kd_loss"] < 0.8 * before

    def test_is_of_an_adapter_too(self, tmp_path):
        tested = image_trainer(tmp_path, peft_config=LORA, max_steps=2, **MIXED)
        before = {name: value.clone() for name, value in tested.model.state_dict().items()}

        tested.train()

        changed = {name for name, value in tested.model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed
        assert all("lora_" in name for name in changed)

    def test_takes_names_and_saves_the_student_alone(self, tmp_path):
        for name, (model, processor) in {"student": vision_student(), "teacher": image_teacher("llava")}.items():
            model.save_pretrained(tmp_path / name)
            processor.save_pretrained(tmp_path / name)
        named = DistillationTrainer(
            str(tmp_path / "student"),
            str(tmp_path / "teacher"),
            arguments(tmp_path / "out", learning_rate=0.0),
            train_dataset=image_rows(),
        )
        assert type(named.processing_class).__name__ == "EncDecSLMVisionProcessor"
        assert difference(gradients(named), gradients(image_trainer(tmp_path))) < 1e-6

        named.save_model()

        with safe_open(tmp_path / "out" / "model.safetensors", "pt") as saved:
            assert set(saved.keys()) <= set(named.model.state_dict())
        again = DistillationTrainer(
            str(tmp_path / "out"),
            str(tmp_path / "teacher"),
            arguments(tmp_path / "again"),
            train_dataset=image_rows(),
        )
        torch.testing.assert_close(parts(again, batch(again)).loss, parts(named, batch(named)).loss)

    @pytest.mark.parametrize("generate", [True, False])
    def test_is_evaluated_by_answers_and_logits(self, generate, tmp_path):
        tested = image_trainer(
            tmp_path, predict_with_generate=generate, generation_max_length=6, per_device_eval_batch_size=3,
            log_samples=2,
        )  # fmt: skip

        output = tested.predict(image_rows(5))

        student, processor = tested.model.eval(), tested.processing_class
        row = image_rows(5)[3]
        read = processor(text="<image>\n" + row["source"], images=row["images"], return_tensors="pt")
        if generate:
            answer = student.generate(**read, max_length=6)[0]
            assert output.predictions[3][: len(answer)].tolist() == answer.tolist()
            record = json.loads((tmp_path / "samples.jsonl").read_text().splitlines()[0])
            assert record["source"].split() == image_rows(5)[0]["source"].split()
        else:
            labels = torch.tensor([processor.tokenizer(row["target"])["input_ids"]])
            logits = torch.from_numpy(output.predictions[0][3])[: labels.shape[1]]
            torch.testing.assert_close(logits, student(**read, labels=labels).logits[0].detach(), rtol=1e-4, atol=1e-4)


class TestSamples:
    def test_have_no_tokens_of_images(self, tmp_path):
        theirs = [IMAGE_WORDS.index(f"<|{kind}_pad|>") for kind in ("image", "video")]
        ours = IMAGE_WORDS.index("<image>")
        for options, expected in (({}, [{ours, *theirs}] * 2), ({"divergence": "universal"}, [{ours}, set(theirs)])):
            sampler = image_trainer(tmp_path, "qwen2_vl", on_policy_fraction=1.0, **options)._prepared.sampler
            found = [set(each.suppressed_ids) for each in (sampler.sampling, sampler.teacher_sampling)]
            assert found == expected

    def test_of_one_question_differ_with_the_image(self, tmp_path):
        images = [[picture(8, 8, seed=row)] for row in range(8)]
        rows = image_rows(8, images=images, source=["a b"] * 8)
        tested = image_trainer(tmp_path, data=rows, on_policy_fraction=0.5, per_device_train_batch_size=8, max_steps=2)
        kept = batches_of(tested)
        tested.train()

        # all rows or none would be chosen, if their images were not told apart
        assert any(0 < len(inputs[SAMPLES]["labels"]) < 8 for inputs in kept if SAMPLES in inputs)
        assert all(SAMPLES in inputs for inputs in kept)


class TestStudents:
    def test_of_another_family_learn(self, tmp_path):
        tested = image_trainer(tmp_path, model=t5gemma2(), max_steps=5, eval_dataset=image_rows(), **MIXED)
        loss = parts(tested, batch(tested))
        cross_entropies, divergences = image_losses_by_hand(tested, "llava", image_rows())
        assert float(loss.cross_entropy) == pytest.approx(float(cross_entropies.mean()), rel=1e-4)
        assert float(loss.divergence) == pytest.approx(float(divergences.mean()), rel=1e-4)
        before = tested.evaluate()["eval_kd_loss"]

        tested.train()

        assert tested.evaluate()["eval_kd_loss"] < 0.9 * before


class TestTeachers:
    def test_with_adapters_read_and_answer_the_rows_that_name_them(self, tmp_path):
        folders = {}
        for seed, name in enumerate(("first", "second")):
            torch.manual_seed(seed)
            adapted = get_peft_model(image_teacher("qwen2_vl")[0], LoraConfig(**STRONG))
            adapted.save_pretrained(folders.setdefault(name, str(tmp_path / name)))
        names = ["first", "second", "second", "first", "second", "first", "first", "second"]
        both = image_trainer(
            tmp_path, "qwen2_vl", data=image_rows(teacher=names), teacher_adapters=folders, max_steps=1,
            teacher_samples_fraction=0.5,
        )  # fmt: skip
        alone = {
            name: image_trainer(tmp_path, "qwen2_vl", teacher_adapters=folder) for name, folder in folders.items()
        }
        lengths = torch.tensor([len(labels) for labels in both.train_dataset["labels"]])
        expected = torch.stack(
            [parts(alone[name], batch(alone[name], [i])).divergence for i, name in enumerate(names)]
        )

        divergence = parts(both, batch(both)).divergence

        torch.testing.assert_close(divergence, (expected * lengths).sum() / lengths.sum(), rtol=1e-5, atol=0)
        both.train()

    def test_that_read_no_images_may_be_told_in_words(self, tmp_path):
        prompts = [f"{row} b c" for row in "abcdefgh"]
        options = {"model": vision_student(), "teacher": (teacher(), word_tokenizer(end=None))}
        told = image_trainer(tmp_path, data=image_rows(teacher_prompt=prompts), **copy.deepcopy(options), **MIXED)

        loss = parts(told, batch(told))
        told.train()

        without = image_rows(teacher_prompt=prompts).remove_columns("images")
        plain = image_trainer(tmp_path, data=without, **options)
        row = batch(told, [1]), batch(plain, [1])
        torch.testing.assert_close(parts(plain, row[0]).loss, parts(plain, row[1]).loss)
        assert loss.divergence > 0

    def test_may_have_other_tokens_for_images_than_the_student(self, tmp_path):
        swapped = {"<image>": "<global-img>", "<global-img>": "<image>"}
        words = [swapped.get(word, word) for word in IMAGE_WORDS]
        tokenizer = word_tokenizer(words, extra_special_tokens=SPECIAL)

        tested = image_trainer(tmp_path, model=vision_student(tokenizer), **MIXED)

        # the words and special tokens that both have before the tokens of images
        assert tested._prepared.shared_ids == len(WORDS)
        tested.train()


class TestCache:
    def test_is_of_rows_of_text_alone(self, tmp_path):
        texts = image_rows().remove_columns("images")
        live = image_trainer(tmp_path, data=texts, top_k=8)
        tokenizer = live.processing_class.tokenizer
        options = {"student_tokenizer": tokenizer, "shared_ids": live._prepared.shared_ids, "top_k": 8}
        options |= {"collator": live.data_collator, "teacher_name": "a teacher"}
        write_teacher_cache(tmp_path / "cache", live.teacher, live.train_dataset, **options)

        def from_cache(data):
            student, processor = vision_student()
            return DistillationTrainer(
                student,
                args=arguments(tmp_path, teacher_cache=str(tmp_path / "cache")),
                train_dataset=data,
                processing_class=processor,
                teacher_processing_class=live.teacher.processing_class,
            )

        assert difference(gradients(from_cache(texts)), gradients(live)) < 2e-3
        with pytest.raises(
            ValueError, match="the dataset has images, but a teacher_cache tells rows apart by the ids"
        ):
            from_cache(image_rows())
        with pytest.raises(ValueError, match="the dataset has images, but a cache tells rows apart by the ids"):
            write_teacher_cache(tmp_path / "images", live.teacher, live._prepared.encode(image_rows()), **options)


class TestRefusals:
    def test_of_a_teacher_without_images(self, tmp_path):
        with pytest.raises(ValueError, match="has images, but the teacher reads none"):
            image_trainer(tmp_path, (teacher(), word_tokenizer(end=None)))

    def test_of_a_student_without_a_processor(self, tmp_path):
        model, processor = vision_student()

        with pytest.raises(ValueError, match=r"the student reads none.* not a tokenizer"):
            image_trainer(tmp_path, model=(model, processor.tokenizer))

    def test_of_other_numbers_of_images_than_places(self, tmp_path):
        data = image_rows(2, source=["a", "<image> a"])

        with pytest.raises(ValueError, match=r"row 1: its source has 1 image tokens '<image>', but .* 0 images"):
            image_trainer(tmp_path, data=data)

    def test_of_an_image_that_cannot_be_read(self, tmp_path):
        (tmp_path / "broken.png").write_bytes(b"no image")
        data = Dataset.from_dict({"images": [str(tmp_path / "broken.png")], "source": ["a"], "target": ["b"]})

        with pytest.raises(ValueError, match=r"broken\.png cannot be read as an image"):
            image_trainer(tmp_path, data=data).train()

    def test_of_more_than_the_teacher_reads(self, tmp_path):
        model, processor = image_teacher("smolvlm")
        model.config.text_config.max_position_embeddings = 60
        tested = image_trainer(tmp_path, (model, processor), check_teacher=False)

        with pytest.raises(ValueError, match=r"a prompt of \d+ and a target of \d+ tokens, but it reads at most 60"):
            tested.train()

    def test_of_a_stream_that_one_process_reads_for_all(self, tmp_path, monkeypatch):
        tested = image_trainer(tmp_path)
        monkeypatch.setattr(type(tested.args), "world_size", 2)

        with pytest.raises(ValueError, match="stream with images, of which one of the 2 processes"):
            tested._prepared.encode(image_rows().to_iterable_dataset())
