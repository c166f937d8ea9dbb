"""Teachers whose weights bitsandbytes quantises when they are loaded, as `teacher_model_init_kwargs` asks for it."""

import pytest
import torch
from distillation_tester import batch as batch_of
from distillation_tester import by_hand, parts, teacher, trainer, word_tokenizer
from peft import LoraConfig, get_peft_model
from teacher_tester import STRONG
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from encdec_slm.distillation.teacher_loading import load_teacher
from encdec_slm.distillation.teachers import is_quantized


pytest.importorskip("bitsandbytes", reason="quantises the weights")

QUANTIZATIONS = {
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"},
}
# for processors with AVX-512 and bfloat16, kernels of 4 bits want columns in whole blocks of 64
HIDDEN_SIZES = {"int8": 32, "nf4": 64}


@pytest.fixture(params=QUANTIZATIONS)
def options(request):
    return QUANTIZATIONS[request.param]


@pytest.fixture
def checkpoint(request, options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    teacher(hidden_size=HIDDEN_SIZES[request.node.callspec.params["options"]]).save_pretrained(folder)
    word_tokenizer(end=None).save_pretrained(folder)
    return str(folder)


def test_a_student_learns_from_quantised_weights(options, checkpoint, tmp_path):
    taught = trainer(
        tmp_path,
        teacher_model=checkpoint,
        alpha=1.0,
        # as of a YAML file
        teacher_model_init_kwargs={"quantization_config": dict(options)},
    )
    assert is_quantized(taught.teacher.model)
    loss = float(parts(taught, batch_of(taught)).loss)
    assert loss == pytest.approx(by_hand(taught)[1].mean().item(), rel=1e-3)
    # they are rounded: what is learned is not what the unquantised teacher says
    plain = trainer(tmp_path, teacher_model=checkpoint, alpha=1.0)
    assert abs(loss - float(parts(plain, batch_of(plain)).loss)) > 1e-4
    assert torch.isfinite(torch.tensor(taught.train().training_loss))


def test_an_adapter_stays_beside_a_quantised_base(options, checkpoint, tmp_path):
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint), LoraConfig(**STRONG))
    adapted.save_pretrained(tmp_path)
    init_kwargs = {"quantization_config": BitsAndBytesConfig(**options)}
    loaded = load_teacher(str(tmp_path), init_kwargs=init_kwargs)
    assert any("lora" in name for name in loaded.model.state_dict())
    with pytest.raises(ValueError, match="'default' is quantised"):
        load_teacher(str(tmp_path), init_kwargs=init_kwargs, merge_adapter=True)
