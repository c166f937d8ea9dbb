"""A teacher says the same whatever it is batched with, and whatever happens around it."""

import shutil

import pytest
import torch
from foreign_models import SCALED, STUDENTS, TEACHERS, VOCAB_SIZE, bart, calling, llama, ours, student_inputs, t5
from fresh_process import run_python
from peft import LoraConfig, PeftModel, get_peft_model
from teacher_tester import STRONG, TEXT, adapter, llama_again, read, row_of, some_inputs
from transformers import BitNetQuantConfig, LlamaForCausalLM
from transformers.quantizers import AutoHfQuantizer

from encdec_slm.distillation.chunked_divergence import LazyLogits
from encdec_slm.distillation.heads import GivenLogits
from encdec_slm.distillation.teacher_loading import load_teacher
from encdec_slm.distillation.teachers import SelfTeacher, Teacher, teacher_fingerprint


@pytest.mark.parametrize("name", [*TEACHERS, *SCALED])
def test_a_row_alone_in_a_batch_and_shifted_is_the_same(name, tiny_tokenizer):
    teacher = Teacher({**TEACHERS, **SCALED}[name](), tiny_tokenizer)
    prompts, targets = [TEXT[:3], TEXT[3:9], TEXT[9:10]], [TEXT[10:14], TEXT[14:15], TEXT[15:18]]
    together = teacher.predict(read(prompts, targets)).logits()
    assert together.shape == (3, 4, VOCAB_SIZE)
    for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        alone = teacher.predict(read([prompt], [target])).logits()
        torch.testing.assert_close(together[row, : len(target)], alone[0], rtol=1e-4, atol=1e-4)
        # and what the model says to the plain text without any padding, mask or position
        whole = teacher.model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(alone[0], whole, rtol=1e-4, atol=1e-4)


def test_lazy_where_its_head_is_all_that_makes_the_logits(tiny_tokenizer):
    inputs = some_inputs()
    for name, build in {**TEACHERS, **SCALED}.items():
        found = Teacher(build(), tiny_tokenizer).predict(inputs)
        assert isinstance(found, GivenLogits if name in SCALED else LazyLogits)
        assert found.shape == (3, inputs.target_length)
        assert found.vocab_size == VOCAB_SIZE


class WithoutOptions(LlamaForCausalLM):
    """A model whose forward takes neither positions nor a number of logits."""

    def forward(self, input_ids, attention_mask):
        assert attention_mask.all()
        return super().forward(input_ids, attention_mask)


def test_only_what_the_model_takes_is_passed(tiny_tokenizer):
    plain = llama_again()
    other = WithoutOptions(plain.config)
    other.load_state_dict(plain.state_dict())
    inputs = read([TEXT[:5]] * 2, [TEXT[5:9]] * 2)
    wanted, found = (Teacher(model, tiny_tokenizer).predict(inputs).logits() for model in (plain, other))
    torch.testing.assert_close(found, wanted)


def test_only_the_logits_of_the_target_are_made(tiny_tokenizer):
    teacher, kept = Teacher(SCALED["granite"](), tiny_tokenizer), []
    teacher.model.register_forward_hook(lambda module, inputs, outputs: kept.append(outputs.logits.shape[1]))
    inputs = some_inputs()
    teacher.predict(inputs)
    assert set(kept) == {inputs.target_length + 1}


def test_it_is_frozen_and_never_in_training_mode(tiny_tokenizer, adapters):
    model = PeftModel.from_pretrained(llama_again(), adapters["first"], is_trainable=True)
    assert any(value.requires_grad for value in model.parameters())
    teacher = Teacher(model, tiny_tokenizer)
    assert not isinstance(teacher, torch.nn.Module)
    first = teacher.predict(some_inputs())
    assert not first.logits().requires_grad
    assert not any(value.requires_grad for value in model.parameters())
    model.train()
    teacher.predict(some_inputs())
    assert not any(module.training for module in model.modules())


def test_dropout_of_an_adapter_is_off(tiny_tokenizer, tmp_path):
    path = adapter(tmp_path / "dropout", 0, lora_dropout=0.5)
    teacher = load_teacher(llama_again(), tokenizer=tiny_tokenizer, adapters=path)
    inputs = some_inputs()
    first = teacher.predict(inputs).logits()
    teacher.model.train()
    assert not torch.equal(*(teacher.model(inputs.input_ids).logits for _ in range(2)))
    assert torch.equal(teacher.predict(inputs).logits(), first)


def test_a_student_that_holds_a_teacher_does_not_save_it(tiny_tokenizer):
    student = ours()
    names = set(student.state_dict())
    student.teacher = Teacher(llama(), tiny_tokenizer)
    assert set(student.state_dict()) == names
    student.train()
    assert not student.teacher.model.training


@pytest.mark.parametrize("family", ["llama", "granite"])
def test_exchanged_ids_are_two_columns(family, tiny_tokenizer):
    model, inputs = {**TEACHERS, **SCALED}[family](), some_inputs()
    plain = Teacher(model, tiny_tokenizer).predict(inputs).logits()
    exchanged = Teacher(model, tiny_tokenizer, exchange=(2, 9)).predict(inputs).logits()
    order = [{2: 9, 9: 2}.get(i, i) for i in range(VOCAB_SIZE)]
    torch.testing.assert_close(exchanged, plain[..., order])
    assert not torch.equal(exchanged, plain)


class TestSeveralAdapters:
    @pytest.fixture
    def teachers(self, adapters, tiny_tokenizer):
        """Each adapter alone, and the base as the last, which -1 points to."""
        paths = [*adapters.values(), None]
        return [load_teacher(llama_again(), tokenizer=tiny_tokenizer, adapters=path) for path in paths]

    @pytest.fixture
    def both(self, adapters, tiny_tokenizer):
        return load_teacher(llama_again(), tokenizer=tiny_tokenizer, adapters=adapters)

    @pytest.mark.parametrize("index", [[0, 0, 0], [1, 1, 1], [1, 0, 1], [-1, -1, -1], [1, -1, 0], [-1, 0, -1]])
    def test_each_row_is_read_by_its_own(self, both, teachers, index):
        inputs = some_inputs()
        found = both.predict(inputs, torch.tensor(index))
        assert isinstance(found, LazyLogits)
        for row, i in enumerate(index):
            wanted = teachers[i].predict(row_of(inputs, row)).logits()
            torch.testing.assert_close(found.logits()[row], wanted[0], rtol=1e-5, atol=1e-5)
        assert not any(value.requires_grad for value in both.model.parameters())

    def test_they_differ(self, teachers):
        logits = [teacher.predict(some_inputs()).logits() for teacher in teachers]
        for i in range(3):
            assert (logits[i] - logits[i - 1]).abs().max() > 0.1

    def test_a_teacher_that_computes_its_logits_at_once(self, tmp_path, tiny_tokenizer):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            base = SCALED["granite"]()
        adapted = get_peft_model(base, LoraConfig(**STRONG), adapter_name="one")
        teacher = Teacher(adapted, tiny_tokenizer, adapters=("one",))
        inputs = some_inputs()
        mixed = teacher.predict(inputs, torch.tensor([-1, 0, -1])).logits()
        on, off = (teacher.predict(inputs, torch.tensor([i] * 3)).logits() for i in (0, -1))
        torch.testing.assert_close(mixed, torch.stack([off[0], on[1], off[2]]))
        assert not torch.allclose(on, off, atol=0.05)

    def test_which_one_was_asked_last_does_not_matter(self, both):
        inputs, fingerprint = some_inputs(), teacher_fingerprint(both)
        first = both.predict(inputs, torch.tensor([0, 1, -1])).logits()
        both.predict(inputs, torch.tensor([1, 1, 1]))
        both.predict(inputs, torch.tensor([-1, -1, -1]))
        assert both.model.active_adapter == "first"
        assert torch.equal(both.predict(inputs, torch.tensor([0, 1, -1])).logits(), first)
        assert teacher_fingerprint(both) == fingerprint

    def test_an_error_leaves_the_adapters_as_they_were(self, both):
        for index in (-1, 1):
            with pytest.raises(KeyError), both.reading_with(index):
                both.model.peft_config["none"]
            assert both.model.active_adapter == "first"
            assert both.model.get_model_status().enabled is True
            assert not any(value.requires_grad for value in both.model.parameters())

    def test_what_is_no_index_is_refused(self, both, teachers):
        inputs = some_inputs()
        with pytest.raises(ValueError, match="2 adapters, but no teacher_index"):
            both.predict(inputs)
        for index in ([0, 2, 0], [-2, 0, 0]):
            with pytest.raises(ValueError, match=r"adapters are \('first', 'second'\)"):
                both.predict(inputs, torch.tensor(index))
        with pytest.raises(ValueError, match="has none"):
            teachers[-1].predict(inputs, torch.tensor([0, 0, 0]))


class TestFingerprint:
    def test_it_is_the_same_in_another_process_and_place(self, checkpoint, adapters, tmp_path):
        found = teacher_fingerprint(load_teacher(checkpoint, adapters=adapters))
        assert len(found) == 64
        copy = shutil.copytree(checkpoint, tmp_path / "copy")
        program = (
            "from encdec_slm.distillation.teacher_loading import load_teacher\n"
            "from encdec_slm.distillation.teachers import teacher_fingerprint\n"
            f"print(teacher_fingerprint(load_teacher({str(copy)!r}, adapters={adapters!r})))"
        )
        printed = run_python("-c", program, cwd=tmp_path)
        assert printed.stdout.strip() == found, printed.stderr

    def test_it_is_the_same_before_and_after_saving(self, checkpoint, tiny_tokenizer):
        loaded = teacher_fingerprint(load_teacher(checkpoint))
        assert teacher_fingerprint(Teacher(llama_again(), tiny_tokenizer)) == loaded
        assert teacher_fingerprint(load_teacher(checkpoint, init_kwargs={"attn_implementation": "eager"})) == loaded

    def test_predicting_does_not_change_it(self, checkpoint, adapters):
        teacher = load_teacher(checkpoint, adapters=adapters)
        before = teacher_fingerprint(teacher)
        teacher.predict(some_inputs(), torch.tensor([0, -1, 1]))
        assert teacher_fingerprint(teacher) == before

    def test_all_that_changes_predictions_changes_it(self, checkpoint, adapters, tmp_path):
        one_weight = llama_again()
        one_weight.model.layers[1].mlp.up_proj.weight.data[0, 0] += 1e-4
        rope = llama_again()
        rope.config.rope_parameters["rope_theta"] = 20000.0
        tokenizer = load_teacher(checkpoint).tokenizer
        scaled = adapter(tmp_path / "scaled", 0, lora_alpha=17)
        teachers = [
            load_teacher(checkpoint),
            load_teacher(checkpoint, exchange=(2, 9)),
            load_teacher(checkpoint, init_kwargs={"dtype": "bfloat16"}),
            Teacher(one_weight, tokenizer),
            Teacher(rope, tokenizer),
            load_teacher(checkpoint, adapters=adapters["first"]),
            load_teacher(checkpoint, adapters=adapters["second"]),
            load_teacher(checkpoint, adapters=scaled),
            load_teacher(checkpoint, adapters=adapters),
            load_teacher(checkpoint, adapters=dict(reversed(adapters.items()))),
        ]
        assert len({teacher_fingerprint(teacher) for teacher in teachers}) == len(teachers)


def test_quantised_and_placed_models_stay_where_they_are(tiny_tokenizer):
    plain = Teacher(llama(), tiny_tokenizer)
    assert plain.to("meta") is plain
    assert plain.device.type == "meta"
    placed, quantized = llama(), llama()
    placed.hf_device_map = {"": "cpu"}
    quantized.hf_quantizer = AutoHfQuantizer.from_config(BitNetQuantConfig(), pre_quantized=True)
    for model in (placed, quantized):
        assert Teacher(model, tiny_tokenizer).to("meta").device.type == "cpu"


class TestSelfTeacher:
    @pytest.fixture(params=["t5_tied", "bart", "ours_with_bias", "t5gemma"])
    def student(self, request):
        """A PeftModel of an encoder-decoder in training mode, with dropout."""
        options = {"target_modules": r".*\.(q|q_proj|v|v_proj)", "lora_dropout": 0.3, "init_lora_weights": False}
        model = get_peft_model(STUDENTS[request.param](), LoraConfig(r=2, **options))
        return model.train()

    def test_it_is_the_base(self, student):
        base, inputs = student.get_base_model(), student_inputs()
        found = SelfTeacher(student).predict(inputs)
        student.eval()
        with torch.no_grad():
            adapted = calling(base, inputs)().logits
            base = student.unload()
            wanted = calling(base, inputs)().logits
        torch.testing.assert_close(found.logits(), wanted, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(wanted, adapted, atol=0.05)
        assert not any(part.requires_grad for part in (found.hidden_states, found.weight))
        assert SelfTeacher(get_peft_model(base, LoraConfig(target_modules=["q", "q_proj"]))).vocab_size == VOCAB_SIZE

    def test_the_student_is_untouched(self, student):
        inputs, teacher = student_inputs(), SelfTeacher(student)
        student.get_base_model().get_encoder().eval()
        frozen = next(name for name, value in student.named_parameters() if value.requires_grad)
        student.get_parameter(frozen).requires_grad_(False)

        def state():
            return (
                [module.training for module in student.modules()],
                {name: value.requires_grad for name, value in student.named_parameters()},
                str(student.get_model_status()),
            )

        def step(between):
            student.zero_grad()
            torch.manual_seed(1)
            loss = calling(student.get_base_model(), inputs, around=student)().logits.square().sum()
            between()
            loss.backward()
            return {name: value.grad for name, value in student.named_parameters() if value.grad is not None}

        before, random = state(), torch.get_rng_state()
        teacher.predict(inputs)
        assert state() == before
        assert torch.equal(torch.get_rng_state(), random)
        # also between the student's forward and its backward pass
        torch.testing.assert_close(step(lambda: teacher.predict(inputs)), step(lambda: None), rtol=0, atol=0)

    def test_an_error_leaves_the_student_as_it_was(self, student):
        modes = [module.training for module in student.modules()]

        def fail(*_):
            raise KeyError

        student.get_base_model().register_forward_pre_hook(fail)
        with pytest.raises(KeyError):
            SelfTeacher(student).predict(student_inputs())
        assert [module.training for module in student.modules()] == modes
        assert student.get_model_status().enabled is True
        assert any(value.requires_grad for value in student.parameters())

    def test_adapters_that_were_off_stay_off(self, student):
        with student.disable_adapter():
            SelfTeacher(student).predict(student_inputs())
            assert student.get_model_status().enabled is False
        assert student.get_model_status().enabled is True

    def test_what_is_no_student_with_an_adapter_is_refused(self):
        with pytest.raises(ValueError, match="without an adapter"):
            SelfTeacher(t5())
        with pytest.raises(ValueError, match="no encoder-decoder"):
            SelfTeacher(get_peft_model(llama(), LoraConfig(target_modules=["q_proj"])))
        with pytest.raises(ValueError, match="bias='none'"):
            SelfTeacher(get_peft_model(bart(), LoraConfig(target_modules=["q_proj"], bias="all")))
        student = get_peft_model(t5(), LoraConfig(target_modules=["q"]))
        student.get_base_model().encoder.final_layer_norm.requires_grad_(True)
        with pytest.raises(ValueError, match=r"1 trained weights .* \(encoder.final_layer_norm.weight"):
            SelfTeacher(student)
