"""What is frozen stays, what has a rate of its own gets it, and no pattern is in vain."""

import pytest
import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer

from encdec_slm.adaptation import DataCollatorForDenoising, PrefixLM
from encdec_slm.parameter_groups import build_optimizer, freeze, parameter_groups, parse_rates


FAMILIES = ("t5", "bart", "ours")
CROSS_ATTENTION = {"t5": "EncDecAttention", "bart": "encoder_attn", "ours": "encoder_attn"}
TEXTS = [{"input_ids": [4 + (row + place) % 50 for place in range(12)]} for row in range(16)]


@pytest.fixture
def arguments(tmp_path):
    def arguments(**options):
        return Seq2SeqTrainingArguments(
            **{"output_dir": str(tmp_path), "use_cpu": True, "report_to": [], "disable_tqdm": True, **options}
        )

    return arguments


def train(model, tokenizer, args, **options):
    trainer = Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=TEXTS,
        data_collator=DataCollatorForDenoising(tokenizer, {PrefixLM(): 1.0}),
        **options,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("family", FAMILIES)
def test_the_frozen_do_not_move_and_all_others_do(build_model, tokenizer, arguments, family):
    model = build_model(family)
    frozen = freeze(model, [r"encoder\.(block|layers)\.0\.", "embed_tokens|shared"])
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    train(model, tokenizer, arguments(max_steps=3, learning_rate=1e-2))
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert 0 < len(frozen) < len(before)
    assert moved == before.keys() - set(frozen)


def test_a_tied_parameter_has_all_its_names(build_model):
    for pattern in ("shared", r"decoder\.embed_tokens", "lm_head"):
        assert freeze(build_model("t5"), [pattern]) == ["shared.weight"]
        groups = parameter_groups(build_model("t5"), learning_rate=1.0, rates={pattern: 3.0})
        assert [len(group["params"]) for group in groups if group["lr"] == 3.0] == [1]


@pytest.mark.parametrize("family", FAMILIES)
def test_without_rates_the_groups_are_those_of_the_trainer(build_model, arguments, family):
    model = build_model(family)
    args = arguments(learning_rate=0.3, weight_decay=0.1)
    theirs = Seq2SeqTrainer(model=model, args=args).create_optimizer().param_groups
    ours = parameter_groups(model, learning_rate=0.3, weight_decay=0.1)
    assert len(ours) == len(theirs) == 2
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine["lr"], mine["weight_decay"]) == (other["lr"], other["weight_decay"])
        assert set(mine["params"]) == set(other["params"])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_trainable_parameter_is_in_one_group_with_its_rate_and_decay(build_model, family):
    model = build_model(family)
    frozen = freeze(model, [r"decoder\..*\.0\."])
    rates = {CROSS_ATTENTION[family]: 10.0, "decoder": 2.0}
    groups = parameter_groups(model, learning_rate=0.1, weight_decay=0.5, rates=rates)
    found = {parameter: group for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(list(model.parameters())) - len(frozen)
    all_names = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        all_names.setdefault(parameter, []).append(name)
    for parameter, group in found.items():
        first = next((p for p in rates if any(p in name for name in all_names[parameter])), None)
        assert group["lr"] == pytest.approx(0.1 * rates.get(first, 1.0))
        # by their names the biases that T5 adds to its attention are among them
        decays = parameter.dim() > 1 and "bias" not in all_names[parameter][0]
        assert group["weight_decay"] == (0.5 if decays else 0.0)
    assert groups[0]["lr"] == 0.1


def test_the_schedule_scales_all_rates(build_model, tokenizer, arguments):
    model = build_model("ours")
    args = arguments(max_steps=4, learning_rate=1e-3, warmup_steps=2, lr_scheduler_type="linear", optim="adamw_torch")
    optimizer = build_optimizer(model, args, {"encoder_attn": 10.0})
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (args.adam_beta1, args.adam_beta2)
    seen = []
    step = optimizer.step

    def watched(*arguments, **options):
        seen.append(sorted({group["lr"] for group in optimizer.param_groups}))
        return step(*arguments, **options)

    optimizer.step = watched
    train(model, tokenizer, args, optimizers=(optimizer, None))
    expected = [[0.0], [5e-4, 5e-3], [1e-3, 1e-2], [5e-4, 5e-3]]
    assert len(seen) == 4
    for rates, wanted in zip(seen, expected, strict=True):
        assert rates == pytest.approx(wanted)


def test_patterns_in_vain_are_refused(build_model):
    model = build_model("ours")
    with pytest.raises(ValueError, match="no parameter has a name with 'EncDecAttention' in it; there are"):
        freeze(model, ["encoder_attn", "EncDecAttention"])
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="leave no parameter"):
        freeze(model, ["."])
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="no regular expression"):
        freeze(model, ["("])
    with pytest.raises(ValueError, match="'encoder_attn' in it that no pattern before it matches"):
        parameter_groups(model, learning_rate=1.0, rates={"decoder": 2.0, "encoder_attn": 10.0})
    with pytest.raises(ValueError, match="multiplier of 'decoder' is 0"):
        parameter_groups(model, learning_rate=1.0, rates={"decoder": 0.0})
    freeze(model, ["encoder_attn"])
    with pytest.raises(ValueError, match="no trainable parameter has a name with 'encoder_attn'"):
        parameter_groups(model, learning_rate=1.0, rates={"encoder_attn": 10.0})


def test_multipliers_are_read_from_the_last_equals_sign():
    assert parse_rates(["a=b=2", "c=1e-1"]) == {"a=b": 2.0, "c": 0.1}
    for text, complaint in (("a", "not of the form"), ("a=b", "not of the form"), ("=2", "has no pattern")):
        with pytest.raises(ValueError, match=complaint):
            parse_rates([text])


def test_optimizers_with_groups_of_their_own_are_refused(build_model, arguments, monkeypatch):
    # as the library answers for GaLore
    answer = (torch.optim.AdamW, {"lr": 0.1, "params": []})
    monkeypatch.setattr(Trainer, "get_optimizer_cls_and_kwargs", staticmethod(lambda args, model: answer))
    with pytest.raises(ValueError, match=r"optimizer .*galore_adamw makes parameter groups of its own"):
        build_optimizer(build_model("ours"), arguments(optim="galore_adamw"), {"encoder_attn": 10.0})
