"""What does not fit together is refused before the training starts, in words that tell what to do."""

import pytest
import torch
from datasets import Dataset
from distillation_tester import (
    VOCAB_SIZE,
    WORDS,
    arguments,
    cached,
    rows,
    student,
    teacher,
    trainer,
    word_tokenizer,
)
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from teacher_tester import adapter, llama_again

from encdec_slm.distillation import DistillationTrainer


OTHER_ORDER = [*WORDS[:4], *reversed(WORDS[4:])]
LORA = LoraConfig(target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")


def without(column):
    return rows().remove_columns(column)


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"on_policy_fraction": 1.5}, "on_policy_fraction is 1.5, but a share of the rows is between 0 and 1"),
            ({"teacher_samples_fraction": -0.1}, "teacher_samples_fraction is -0.1"),
            ({"on_policy_fraction": 0.6, "teacher_samples_fraction": 0.6}, "together they are at most 1"),
            ({"alpha": 1.5}, "alpha is 1.5, but the share of the divergence is between 0 and 1"),
            ({"alpha": 1.5, "divergence": "universal"}, "alpha is 1.5"),
            ({"temperature": 0.0}, "temperature"),
            ({"divergence": "kl"}, "divergence"),
            ({"sampling_temperature": 0.0}, "temperature is 0.0, but it is positive"),
            ({"sampling_top_p": 0.0}, "top_p is 0.0"),
            ({"label_smoothing_factor": 1.0}, "label_smoothing is 1.0"),
            ({"remove_unused_columns": True}, "remove_unused_columns must be False"),
            ({"teacher_cache": "folder", "on_policy_fraction": 0.5}, "teacher_cache knows the targets of the dataset"),
            (
                {"teacher_cache": "folder", "teacher_samples_fraction": 0.5},
                "give the teacher itself, or set both to 0",
            ),
            ({"teacher_cache": "folder", "divergence": "universal"}, "need all of them"),
            ({"teacher_cache": "folder", "reproduce_original": True}, "need all of them"),
            ({"divergence": "universal", "top_k": 5}, "leave top_k out"),
            ({"reproduce_original": True, "temperature": 2.0}, "leave these at their defaults"),
            ({"reproduce_original": True, "divergence": "jsd"}, "leave these at their defaults"),
            ({"reproduce_original": True, "on_policy_fraction": 0.5}, "all of labels .0. or all of answers .1."),
        ],
    )
    def test_that_do_not_fit_together(self, options, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            arguments(tmp_path, **options)

    def test_of_the_trainer(self, tmp_path, monkeypatch):
        args = arguments(tmp_path)
        monkeypatch.setattr(type(args), "n_gpu", property(lambda self: 2))

        with pytest.raises(ValueError, match=r"this process has 2 GPUs.*accelerate launch"):
            DistillationTrainer(student("t5"), teacher(), args)


class TestModels:
    def test_student_that_is_decoder_only(self, tmp_path):
        with pytest.raises(ValueError, match=r"student is a LlamaForCausalLM.*TRL's DistillationTrainer"):
            trainer(tmp_path, teacher())

    def test_student_without_tokenizer(self, tmp_path):
        with pytest.raises(ValueError, match="T5ForConditionalGeneration without a name: pass its tokenizer"):
            DistillationTrainer(student("t5"), teacher(), arguments(tmp_path))

    def test_student_by_model_and_init_kwargs(self, tmp_path):
        with pytest.raises(ValueError, match=r"model_init_kwargs .dtype. load a student by name"):
            trainer(tmp_path, model_init_kwargs={"dtype": "float32"})

    def test_student_with_two_adapters(self, tmp_path):
        with pytest.raises(ValueError, match="has an adapter already"):
            trainer(tmp_path, get_peft_model(student("t5"), LORA), peft_config=LORA)

    @pytest.mark.parametrize("given", [True, False])
    def test_student_with_a_prompt_that_is_learned(self, given, tmp_path):
        config = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=2)
        model = get_peft_model(student("t5"), config) if given else student("t5")

        with pytest.raises(ValueError, match="PROMPT_TUNING, which changes what the model reads"):
            trainer(tmp_path, model, peft_config=None if given else config)

    def test_teacher_that_is_an_encoder_decoder(self, tmp_path):
        with pytest.raises(ValueError, match=r"T5ForConditionalGeneration.*decoder-only"):
            trainer(tmp_path, teacher_model=student("t5"))

    def test_teacher_without_tokenizer(self, tmp_path):
        with pytest.raises(ValueError, match="teacher is a LlamaForCausalLM, not a name: pass its tokenizer too"):
            DistillationTrainer(student("t5"), teacher(), arguments(tmp_path), processing_class=word_tokenizer())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "alpha is 0.5 .* but there is no teacher: give one, or a teacher_cache"),
            ({"alpha": 0.0, "teacher_samples_fraction": 0.5}, "teacher_samples_fraction 0.5, but there is no teacher"),
        ],
    )
    def test_no_teacher(self, options, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            trainer(tmp_path, student("t5"), alone=True, **options)

    @pytest.mark.parametrize("options", [{"teacher_samples_fraction": 0.5}, {"divergence": "universal"}])
    def test_own_base_as_a_teacher_of_something_else(self, options, tmp_path):
        with pytest.raises(ValueError, match="the teacher is the student's own base"):
            trainer(tmp_path, student("t5"), alone=True, peft_config=LORA, **options)

    def test_own_base_that_is_trained(self, tmp_path):
        config = LoraConfig(target_modules=["q", "v"], modules_to_save=["layer_norm"], task_type="SEQ_2_SEQ_LM")
        model = get_peft_model(student("t5"), config)
        model.get_base_model().get_input_embeddings().weight.requires_grad_(True)

        with pytest.raises(ValueError, match="belong to no adapter"):
            trainer(tmp_path, model, alone=True)

    def test_teacher_that_reads_padding(self, tmp_path):
        model = teacher()
        model.forward = lambda original=model.forward, **inputs: original(
            **{name: value for name, value in inputs.items() if name not in ("attention_mask", "position_ids")}
        )

        with pytest.raises(ValueError, match=r"changes by .* when the row is padded on the left"):
            trainer(tmp_path, teacher_model=model)
        trainer(tmp_path, teacher_model=model, check_teacher=False)


class TestTokenizers:
    def test_that_have_different_words_for_one_id(self, tmp_path):
        with pytest.raises(ValueError, match=r"mean different tokens.*4 is 'w59' and 'a'"):
            trainer(tmp_path, teacher_tokenizer=word_tokenizer(OTHER_ORDER, end=None))

    def test_student_without_padding(self, tmp_path):
        tokenizer = word_tokenizer()
        tokenizer.pad_token = None

        with pytest.raises(ValueError, match="no pad_token to pad sources with"):
            trainer(tmp_path, tokenizer=tokenizer)

    def test_without_an_end(self, tmp_path):
        tokenizer = word_tokenizer(end=None)
        tokenizer.eos_token = None

        with pytest.raises(ValueError, match="no token ends the teacher's answers"):
            trainer(tmp_path, teacher_tokenizer=tokenizer)


class TestData:
    @pytest.mark.parametrize("column", ["source", "target"])
    @pytest.mark.parametrize("streaming", [False, True])
    def test_without_a_column(self, column, streaming, tmp_path):
        data = without(column)
        (other,) = data.column_names

        with pytest.raises(ValueError, match=rf"no column {column}, it has \['{other}'\]"):
            trainer(tmp_path, data=data.to_iterable_dataset() if streaming else data)

    def test_of_an_evaluation_without_a_column(self, tmp_path):
        with pytest.raises(ValueError, match="no column target"):
            trainer(tmp_path, eval_dataset={"first": rows(), "second": without("target")})
        with pytest.raises(ValueError, match="no column target"):
            trainer(tmp_path).evaluate(without("target"))

    @pytest.mark.parametrize("target", ["", "  ", None])
    def test_with_a_target_that_has_nothing_to_learn(self, target, tmp_path):
        data = Dataset.from_dict({"source": ["a", "b"], "target": ["c", target]})

        with pytest.raises(ValueError, match=r"row 1: .* target .*remove such rows"):
            trainer(tmp_path, data=data)

    def test_with_a_teacher_that_has_no_names(self, tmp_path):
        data = rows().add_column("teacher", ["first"] * 8)

        with pytest.raises(ValueError, match="column teacher, but the teacher has no named adapters"):
            trainer(tmp_path, data=data)

    def test_with_a_teacher_that_is_not_there(self, tmp_path):
        data = rows().add_column("teacher", ["third"] * 8)
        adapters = {name: adapter(tmp_path / name, seed) for seed, name in enumerate(("first", "second"))}

        with pytest.raises(ValueError, match=r"row 0: its teacher is 'third'.*\['first', 'second'\]"):
            trainer(tmp_path, teacher_model=llama_again(), data=data, teacher_adapters=adapters)

    def test_that_the_teacher_cannot_read_whole(self, tmp_path):
        data = Dataset.from_dict({"source": [" ".join(["a"] * 60)], "target": ["b c d e f"]})

        with pytest.raises(ValueError, match="prompt of 60 and a target of 6 tokens, but it reads at most 64"):
            trainer(tmp_path, data=data)


class TestCache:
    @pytest.fixture
    def folder(self, tmp_path):
        return cached(tmp_path / "cache", trainer(tmp_path))

    def test_of_another_temperature(self, folder, tmp_path):
        with pytest.raises(ValueError, match=r"temperature"):
            trainer(tmp_path, teacher_cache=folder, temperature=2.0)

    @pytest.mark.parametrize("side", ["tokenizer", "teacher_tokenizer"])
    def test_of_another_tokenizer(self, side, folder, tmp_path):
        # what it splits a text into is another matter than what its ids mean
        other = word_tokenizer(end=None, add_prefix_space=True, model_max_length=7)
        other.backend_tokenizer.normalizer = lowercase()

        with pytest.raises(ValueError, match="student_tokenizer" if side == "tokenizer" else "teacher_tokenizer"):
            trainer(tmp_path, teacher_cache=folder, **{side: other})

    def test_of_other_rows(self, folder, tmp_path):
        with pytest.raises(ValueError, match="lacks 8 of 8 rows"):
            trainer(tmp_path, teacher_cache=folder, data=rows(seed=1))

    def test_of_a_stream(self, folder, tmp_path):
        with pytest.raises(ValueError, match="IterableDataset, which is read along the way"):
            trainer(tmp_path, teacher_cache=folder, data=rows().to_iterable_dataset())

    def test_beside_a_teacher(self, folder, tmp_path):
        with pytest.raises(ValueError, match=r"teacher .LlamaForCausalLM. and a teacher_cache"):
            trainer(tmp_path, teacher_cache=folder, teacher_model=teacher())

    def test_of_another_number_of_tokens(self, folder, tmp_path):
        with pytest.raises(ValueError, match=r"top_k is 3, but the teacher cache .* has 8 tokens"):
            trainer(tmp_path, teacher_cache=folder, top_k=3)

    def test_of_a_larger_vocabulary_than_the_students(self, tmp_path):
        small = word_tokenizer(WORDS[:-5])
        folder = cached(tmp_path / "cache", trainer(tmp_path))

        with pytest.raises(ValueError, match="student_tokenizer"):
            trainer(tmp_path, student("t5", vocab_size=VOCAB_SIZE - 5), tokenizer=small, teacher_cache=folder)


def lowercase():
    from tokenizers.normalizers import Lowercase

    return Lowercase()


def test_outputs_are_not_to_be_had(tmp_path):
    tested = trainer(tmp_path)

    with pytest.raises(ValueError, match="no outputs"):
        tested.compute_loss(tested.model, tested.data_collator([tested.train_dataset[0]]), return_outputs=True)


@pytest.mark.parametrize("value", [0, -1])
def test_lengths_that_are_none(value, tmp_path):
    with pytest.raises(ValueError, match=f"{value}, but .* at least 1"):
        trainer(tmp_path, max_target_length=value)


def test_student_and_teacher_stay_as_they_were_after_a_refusal(tmp_path):
    model = student("t5")
    before = {name: value.clone() for name, value in model.state_dict().items()}

    with pytest.raises(ValueError, match="no column target"):
        trainer(tmp_path, model, data=without("target"))

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "forward" not in vars(model)
