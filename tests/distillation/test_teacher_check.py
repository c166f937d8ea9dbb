"""Teachers that say something else in a padded batch are found out, and no others."""

import pytest
import torch
from foreign_models import SCALED, TEACHERS, gpt2, llama
from image_tester import TEACHERS as IMAGE_TEACHERS
from image_tester import image_teacher
from teacher_tester import TEXT, llama_again
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

from encdec_slm.distillation.teacher_check import check_teacher
from encdec_slm.distillation.teacher_loading import load_teacher
from encdec_slm.distillation.teachers import Teacher


class WithoutMask(LlamaForCausalLM):
    """A teacher that sees its padding."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, logits_to_keep=0, use_cache=None):
        return super().forward(input_ids, position_ids=position_ids, logits_to_keep=logits_to_keep)


@pytest.mark.parametrize("name", [*TEACHERS, *SCALED])
def test_teachers_that_obey_the_mask_pass(name, tiny_tokenizer):
    teacher = Teacher({**TEACHERS, **SCALED}[name](), tiny_tokenizer)
    check_teacher(teacher)
    check_teacher(teacher, TEXT[:14], target_length=6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_not_refused(dtype, tiny_tokenizer):
    for build in (llama, gpt2):
        check_teacher(Teacher(build().to(dtype), tiny_tokenizer))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_that_ignores_the_mask_is_refused(dtype, tiny_tokenizer):
    teacher = Teacher(WithoutMask(llama().config).to(dtype), tiny_tokenizer)
    with pytest.raises(ValueError, match="WithoutMask") as error:
        check_teacher(teacher)
    assert "padded on the left" in str(error.value)
    assert "eager" in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_that_ignores_positions_is_refused(dtype, tiny_tokenizer):
    teacher = Teacher(gpt2().to(dtype), tiny_tokenizer)
    check_teacher(teacher)
    teacher._parameters = {"logits_to_keep"}
    with pytest.raises(ValueError, match="changes by"):
        check_teacher(teacher)


def test_one_that_says_nan_is_refused(tiny_tokenizer):
    model = llama()
    model.model.norm.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="changes by nan"):
        check_teacher(Teacher(model, tiny_tokenizer))


def test_longrope_is_refused_where_rows_of_a_batch_change_one_another(tiny_tokenizer):
    # the long row has more than the 30 positions of the short factors, the short one has fewer
    with pytest.raises(ValueError, match="rotary scaling"):
        check_teacher(Teacher(TEACHERS["phi3"](), tiny_tokenizer), list(range(10, 58)))


def test_a_prompt_too_short_is_refused(tiny_tokenizer):
    with pytest.raises(ValueError, match="too short"):
        check_teacher(Teacher(llama(), tiny_tokenizer), TEXT[:8])


def test_adapters(adapters, tiny_tokenizer):
    check_teacher(load_teacher(llama_again(), tokenizer=tiny_tokenizer, adapters=adapters))


class LooksAhead(LlamaForCausalLM):
    """A teacher whose every token knows the last one, as where a prefix language model takes all for a prefix."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, logits_to_keep=0, use_cache=None):
        embed = self.get_input_embeddings()
        return super().forward(
            inputs_embeds=embed(input_ids) + 0.1 * embed(input_ids[:, -1:]),
            attention_mask=attention_mask,
            position_ids=position_ids,
            logits_to_keep=logits_to_keep,
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_that_reads_ahead_is_refused(dtype, tiny_tokenizer):
    teacher = Teacher(LooksAhead(llama().config).to(dtype), tiny_tokenizer)
    with pytest.raises(ValueError, match=r"changes by .* with a token that comes later"):
        check_teacher(teacher)


class TestTeachersThatReadImages:
    @pytest.mark.parametrize("name", IMAGE_TEACHERS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_pass(self, name, dtype):
        model, processor = image_teacher(name)
        check_teacher(Teacher(model.to(dtype), processor))

    def test_are_refused_if_they_take_the_images_of_other_rows(self):
        class TakesOtherImages(LlavaForConditionalGeneration):
            def forward(self, pixel_values=None, **inputs):
                return super().forward(pixel_values=None if pixel_values is None else pixel_values.flip(0), **inputs)

        model, processor = image_teacher("llava")
        with pytest.raises(ValueError, match=r"TakesOtherImages.* padded on the left"):
            check_teacher(Teacher(TakesOtherImages(model.config), processor))
