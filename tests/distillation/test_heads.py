"""Logits made of a head's input are the model's own, and the model is afterwards what it was before."""

import threading

import pytest
import torch
from foreign_models import SCALED, STUDENTS, TEACHERS, VOCAB_SIZE, bart, calling, gpt2, llama, ours, student_inputs, t5
from peft import LoraConfig, get_peft_model
from torch import nn

from encdec_slm.distillation.chunked_divergence import IGNORE_INDEX, LazyLogits, Objective, distillation_loss
from encdec_slm.distillation.heads import (
    GivenLogits,
    capture_head,
    check_lazy_logits,
    evaluation_mode,
    language_model,
    lazy_logits,
)


def build(name):
    """Returns a model in evaluation mode and a function that calls it."""
    if name in STUDENTS:
        model = STUDENTS[name]().eval()
        return model, calling(model, student_inputs())
    model = {**TEACHERS, **SCALED}[name]().eval()
    ids = torch.randint(3, VOCAB_SIZE, (3, 7))
    return model, lambda: model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)


def gradients(loss, model):
    model.zero_grad()
    loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def hooks(model):
    return [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]


@pytest.mark.parametrize("name", [*STUDENTS, *TEACHERS])
def test_lazy_logits_are_the_models_own(name):
    model, call = build(name)
    own = call().logits.detach()
    lazy, outputs = lazy_logits(model, call)
    assert outputs.logits.shape == (0, *own.shape[1:])
    torch.testing.assert_close(lazy.logits(), own, rtol=1e-6, atol=1e-6 * float(own.abs().max()))
    assert own.std() > 0.1
    assert not hooks(model)
    check_lazy_logits(model, call)


@pytest.mark.parametrize("name", [*STUDENTS, *TEACHERS])
def test_gradients_are_the_models_own(name):
    model, call = build(name)
    weights = torch.randn_like(call().logits)
    wanted = gradients((call().logits * weights).sum(), model)
    found = gradients((lazy_logits(model, call)[0].logits() * weights).sum(), model)
    assert wanted.keys() == found.keys()
    for parameter, gradient in wanted.items():
        close = {"rtol": 1e-4, "atol": 1e-5 * float(gradient.abs().max())}
        torch.testing.assert_close(found[parameter], gradient, **close, msg=parameter)


@pytest.mark.parametrize("name", ["t5_tied", "bart", "t5gemma", "ours_with_bias", "gpt2", "opt"])
def test_under_autocast(name):
    model, call = build(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        own = call().logits.detach()
        lazy, _ = lazy_logits(model, call)
    # also where the loss is computed outside, as the Trainer does
    torch.testing.assert_close(lazy.logits(), own.float(), rtol=2e-2, atol=2e-2 * float(own.abs().max()))
    assert lazy.project().dtype == torch.bfloat16
    lazy.logits().sum().backward()
    assert model.get_output_embeddings().weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    for name in ("t5_tied", "bart", "ours_with_bias", "gpt2"):
        model, call = build(name)
        model.to(dtype)
        own = call().logits.detach()
        lazy, _ = lazy_logits(model, call)
        assert lazy.project().dtype == dtype
        close = {"rtol": 2e-2, "atol": 2e-2 * float(own.abs().max())} if dtype == torch.bfloat16 else {}
        torch.testing.assert_close(lazy.logits(), own.to(lazy.logits().dtype), **close)


def test_no_gradient_where_none_is_wanted():
    model, call = build("ours")
    with torch.no_grad():
        lazy, _ = lazy_logits(model, call)
    assert not lazy.hidden_states.requires_grad


@pytest.mark.parametrize("name", ["t5_tied", "bart", "t5gemma", "ours", "gpt2"])
def test_below_a_peft_model(name):
    model, _ = build(name)
    adapted = get_peft_model(model, LoraConfig(target_modules=r".*\.(q|q_proj|c_attn)", r=2, init_lora_weights=False))
    adapted.eval()
    if name in STUDENTS:
        call = calling(model, student_inputs(), around=adapted)
    else:
        ids = torch.randint(3, VOCAB_SIZE, (3, 7))
        call = lambda: adapted(input_ids=ids)  # noqa: E731
    assert language_model(adapted) is model
    own = call().logits
    for outer in (adapted, model):
        lazy, _ = lazy_logits(outer, call)
        torch.testing.assert_close(lazy.logits(), own)
    with adapted.disable_adapter():
        assert not torch.allclose(call().logits, own, atol=1e-3)
    found = gradients(lazy.logits().square().sum(), adapted)
    assert found
    assert all("lora" in parameter for parameter in found)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("name", ["t5_tied", "bart", "ours"])
def test_in_training_with_gradient_checkpointing(name, use_reentrant):
    model, call = build(name)
    model.train()

    def trained(compute):
        # the same dropout each time
        torch.manual_seed(1)
        return gradients(compute().square().sum(), model)

    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    wanted = trained(lambda: call().logits)
    found = trained(lambda: lazy_logits(model, call)[0].logits())
    assert found.keys() == wanted.keys()
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for parameter, gradient in wanted.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-4, atol=1e-6 * largest, msg=parameter)


def test_each_call_within_one_capture_can_be_read():
    model = gpt2().eval()
    first, second = torch.randint(3, VOCAB_SIZE, (2, 4)), torch.randint(3, VOCAB_SIZE, (3, 6))
    with capture_head(model) as head:
        model(first)
        of_first = head.read()
        model(second)
        of_second = head.read()
        with pytest.raises(ValueError, match="was not called"):
            head.read()
    torch.testing.assert_close(of_first.logits(), model(first).logits)
    torch.testing.assert_close(of_second.logits(), model(second).logits)


def test_an_exception_leaves_the_model_as_it_was():
    model, call = build("bart")
    own = call().logits
    with pytest.raises(ZeroDivisionError), capture_head(model):
        call().logits.sum() / (1 // 0)
    assert not hooks(model)
    assert torch.equal(call().logits, own)


def test_other_threads_get_their_logits():
    model, call = build("ours")
    own, found = call().logits, {}

    def work():
        found["other"] = call().logits
        with capture_head(model) as head:
            call()
            found["captured"] = head.read().logits()

    with capture_head(model) as head:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        with pytest.raises(ValueError, match="thread"):
            head.read()
        call()
        captured = head.read().logits()
    assert torch.equal(found["other"], own)
    torch.testing.assert_close([found["captured"], captured], [own, own])


@pytest.mark.parametrize("name", SCALED)
def test_what_is_not_known_is_found_out(name):
    model, call = build(name)
    model.train()
    with pytest.raises(ValueError, match=f"logits of {type(model).__name__} are not what its LM head gives") as error:
        check_lazy_logits(model, call)
    assert "multiplied into the weight" in str(error.value)
    assert model.training
    assert not hooks(model)


def test_what_is_said_to_be_the_way_out_is_one():
    model, call = build("granite")
    own = call().logits
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() / 8)
    model.config.logits_scaling = 1.0
    check_lazy_logits(model, call)
    torch.testing.assert_close(lazy_logits(model, call)[0].logits(), own)


def test_dropout_does_not_make_the_check_fail():
    model, call = build("bart")
    model.train()
    model.model.encoder.eval()
    modes = [module.training for module in model.modules()]
    check_lazy_logits(model, call)
    assert [module.training for module in model.modules()] == modes


def test_evaluation_mode_is_undone_for_each_module():
    model = t5().train()
    model.encoder.block[0].eval()
    modes = [module.training for module in model.modules()]
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(KeyError), evaluation_mode(model):
        model.config.to_dict()["none"]
    assert [module.training for module in model.modules()] == modes
    assert len(set(modes)) == 2


class Half(nn.Linear):
    """What a quantiser puts into the place of a layer."""


@pytest.mark.parametrize(
    ("head", "message"),
    [(None, "has no LM head"), (Half(16, VOCAB_SIZE), "is a Half"), (nn.Linear(16, 9, device="meta"), "offloaded")],
)
def test_heads_that_cannot_be_captured(head, message):
    model = llama()
    model.lm_head = head
    with pytest.raises(ValueError, match=message), capture_head(model):
        pass


def test_adapted_heads_are_refused():
    for options in ({"target_modules": ["lm_head"]}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}):
        adapted = get_peft_model(llama(), LoraConfig(**options))
        with pytest.raises(ValueError, match="target_modules"), capture_head(adapted):
            pass


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="holds no model"):
        language_model(nn.Linear(2, 2))


def test_labels_cannot_be_passed_silently():
    model, inputs = bart().eval(), student_inputs()
    with pytest.raises((ValueError, RuntimeError)), capture_head(model):
        model(**inputs)


@pytest.mark.parametrize("exchange", [None, (2, 7)])
def test_given_logits_teach_what_lazy_ones_do(exchange):
    model = ours()
    student, _ = lazy_logits(model, calling(model, inputs := student_inputs()))
    lazy = LazyLogits(torch.randn(3, 5, 4), torch.randn(VOCAB_SIZE, 4), exchange=exchange)
    given = GivenLogits(lazy.project(), exchange=exchange)
    assert (given.shape, given.device, given.vocab_size) == (lazy.shape, lazy.device, lazy.vocab_size)
    labels = inputs["labels"]
    losses = [
        distillation_loss(student, teacher, labels, objective=Objective(alpha=0.7), chunk_size=4)
        for teacher in (lazy, given)
    ]
    torch.testing.assert_close(losses[0].loss, losses[1].loss)
    assert torch.equal(given[labels != IGNORE_INDEX].logits(), given.logits()[labels != IGNORE_INDEX])
    with pytest.raises(ValueError, match="positions"):
        distillation_loss(student, given[:2], labels, objective=Objective())
