"""What holds when any encoder-decoder of this package is trained: loss, gradients, accumulation, LoRA."""

import pytest
import torch
import transformers
from packaging.version import Version
from torch.nn.functional import one_hot, pad
from transformers import AutoModelForSeq2SeqLM, Seq2SeqTrainer, Seq2SeqTrainingArguments


LABEL_LENGTHS = (6, 2, 4, 3)


def labels_of(tester, lengths=LABEL_LENGTHS):
    """Random labels of unequal lengths, the end filled with -100."""
    labels = tester.targets(len(lengths), max(lengths))
    for row, length in zip(labels, lengths, strict=True):
        row[length:] = -100
    return labels


def gradients(model, *batches):
    """The gradients that the losses of the batches leave, by name of the parameter."""
    model.zero_grad()
    for batch in batches:
        model(**batch).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-3)


def build(tester):
    """A model with weights nearer to trained ones than those of other laws: rounding counts less in its gradients."""
    return tester.model(initializer_range=0.1)


class TrainingLaws:
    """Laws of loss and gradient. A subclass, or its module, gives the fixture `tester`."""

    @pytest.fixture
    def model(self, tester):
        return build(tester)

    @pytest.fixture
    def batch(self, tester):
        return {**tester.inputs((9, 5, 7, 3)), "labels": labels_of(tester)}

    def test_loss_is_the_mean_cross_entropy_of_the_labels(self, model, batch):
        outputs = model(**batch)
        logits = outputs.logits.log_softmax(-1)
        scores = [
            logits[i, j, label]
            for i, row in enumerate(batch["labels"].tolist())
            for j, label in enumerate(row)
            if label != -100
        ]
        assert len(scores) == sum(LABEL_LENGTHS)
        assert_close(outputs.loss, -torch.stack(scores).mean())

    def test_perfect_logits_have_no_loss(self, model):
        labels = torch.tensor([[9, 8, 10, -100]])
        logits = 100.0 * one_hot(labels.clamp(0), model.config.vocab_size)
        assert model.loss_function(logits=logits, labels=labels, vocab_size=model.config.vocab_size) == 0

    def test_labels_are_read_one_to_the_right(self, model, batch):
        labels = batch.pop("labels")
        start, padding = model.config.decoder_start_token_id, model.config.pad_token_id
        by_hand = torch.tensor([[start, *(padding if i == -100 else i for i in row[:-1])] for row in labels.tolist()])
        before = labels.clone()
        assert torch.equal(model.prepare_decoder_input_ids_from_labels(labels=labels), by_hand)
        assert torch.equal(labels, before)
        outputs, expected = model(**batch, labels=labels), model(**batch, labels=labels, decoder_input_ids=by_hand)
        assert torch.equal(outputs.logits, expected.logits)
        assert torch.equal(outputs.loss, expected.loss)
        assert torch.equal(labels, before)

    def test_labels_of_another_length_are_refused(self, tester, model, batch):
        with pytest.raises(ValueError, match=r"labels have shape \(4, 6\).*predicts \(4, 5\)"):
            model(**batch, decoder_input_ids=tester.targets(4, 5))
        with pytest.raises(ValueError, match=r"labels have shape \(4, 6\).*predicts \(4, 1\).*logits_to_keep"):
            model(**batch, logits_to_keep=1)

    @pytest.mark.parametrize("name", ["decoder_start_token_id", "pad_token_id"])
    def test_labels_alone_need_the_tokens_that_frame_them(self, tester, batch, name):
        model = tester.model(**{name: None})
        with pytest.raises(ValueError, match=rf"{name}.*None.*decoder_input_ids"):
            model(**batch)
        decoder_input_ids = batch["labels"].clamp(min=0)
        assert model(**batch, decoder_input_ids=decoder_input_ids).loss.isfinite()

    def test_every_weight_learns(self, model, batch):
        model.train()
        learnt = gradients(model, batch)
        assert learnt.keys() == dict(model.named_parameters()).keys()
        assert [name for name, gradient in learnt.items() if not gradient.any() or not gradient.isfinite().all()] == []

    def test_four_small_batches_are_one_large(self, model, batch):
        whole = gradients(model, batch)
        rows = [{name: value[i : i + 1] for name, value in batch.items()} for i in range(4)]
        # every row cut to its own labels, as a collator would: the small batches have other shapes than the large one
        for row, length in zip(rows, LABEL_LENGTHS, strict=True):
            row["labels"] = row["labels"][:, :length]
        count = torch.tensor(sum(LABEL_LENGTHS))
        parts = gradients(model, *({**row, "num_items_in_batch": count} for row in rows))
        assert parts.keys() == whole.keys()
        for name, gradient in parts.items():
            assert_close(gradient, whole[name])

    @pytest.mark.parametrize("use_reentrant", [True, False])
    def test_gradient_checkpointing_changes_no_gradient(self, model, batch, use_reentrant):
        calls = []
        for stack in (model.get_encoder(), model.get_decoder()):
            stack.layers[0].mlp.register_forward_hook(lambda *_: calls.append(1))
        # with dropout: what is computed a second time must draw the same numbers
        model.train()
        torch.manual_seed(1)
        expected = gradients(model, batch)
        assert len(calls) == 2
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        assert model.is_gradient_checkpointing
        torch.manual_seed(1)
        actual = gradients(model, batch)
        assert len(calls) == 6
        assert actual.keys() == expected.keys()
        for name, gradient in actual.items():
            assert_close(gradient, expected[name])

    def test_learns_a_batch_by_heart(self, tester, model):
        model.train()
        inputs, labels = tester.inputs(), tester.targets()
        # answers of two tokens, five and five
        labels[torch.arange(3), torch.tensor([2, 5, 5])] = model.config.eos_token_id
        labels[0, 3:] = -100
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(60):
            loss = model(**inputs, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert loss < 0.2
        answers = model.eval().generate(**inputs, max_new_tokens=10, do_sample=False)
        start = torch.full((3, 1), model.config.decoder_start_token_id)
        expected = torch.cat((start, labels.masked_fill(labels == -100, model.config.pad_token_id)), dim=1)
        assert torch.equal(answers, expected)

    @pytest.mark.skipif(
        Version(transformers.__version__) < Version("5.6"), reason="its Trainer divides by the steps a second time"
    )
    def test_trainer_accumulates_exactly(self, tester, tmp_path):
        rows = [tester.row(length) for length in (9, 5, 7, 3, 4, 8, 6, 2)]
        labels = [tester.targets(1, length) for length in (6, 2, 4, 3, 5, 1, 2, 7)]
        examples = [{"row": row, "labels": target} for row, target in zip(rows, labels, strict=True)]

        def collate(examples):
            longest = max(example["labels"].shape[1] for example in examples)
            targets = [pad(e["labels"], (0, longest - e["labels"].shape[1]), value=-100) for e in examples]
            return {**tester.batch([example["row"] for example in examples]), "labels": torch.cat(targets)}

        def history(batch_size, accumulation):
            model = build(tester)
            for module in model.modules():
                for name in ("dropout", "attention_dropout"):
                    if isinstance(getattr(module, name, None), float):
                        setattr(module, name, 0.0)
            arguments = Seq2SeqTrainingArguments(
                output_dir=tmp_path,
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=accumulation,
                max_steps=3,
                learning_rate=1e-3,
                max_grad_norm=1e9,
                logging_steps=1,
                save_strategy="no",
                remove_unused_columns=False,
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            )
            trainer = Seq2SeqTrainer(model, arguments, train_dataset=examples, data_collator=collate)
            trainer.train()
            return torch.tensor(
                [[log["loss"], log["grad_norm"]] for log in trainer.state.log_history if "loss" in log]
            )

        large, small = history(4, 1), history(1, 4)
        assert large.shape == (3, 2)
        torch.testing.assert_close(small, large, atol=1e-3, rtol=1e-3)


class LoraLaws:
    """Laws of low-rank adapters."""

    @pytest.fixture
    def model(self, tester):
        return build(tester)

    @pytest.fixture(params=["all-linear", ["qkv_proj", "q_proj", "kv_proj", "o_proj"]], ids=["all-linear", "named"])
    def peft_model(self, request, model):
        peft = pytest.importorskip("peft")
        # not the usual start from zero, at which an adapter that is lost would not be missed
        lora = peft.LoraConfig(
            task_type="SEQ_2_SEQ_LM", r=2, target_modules=request.param, init_lora_weights=False, lora_dropout=0.0
        )
        return peft.get_peft_model(model, lora)

    @pytest.fixture
    def batch(self, tester):
        return {**tester.inputs(), "labels": tester.targets()}

    def test_adapters_alone_learn(self, peft_model, batch):
        weights = {name: weight.detach().clone() for name, weight in peft_model.named_parameters()}
        optimizer = torch.optim.AdamW([w for w in peft_model.parameters() if w.requires_grad], lr=1e-2)
        losses = []
        for _ in range(8):
            losses.append(peft_model(**batch).loss)
            losses[-1].backward()
            optimizer.step()
            optimizer.zero_grad()
        assert losses[-1] < losses[0] - 0.2
        changed = {name for name, weight in peft_model.named_parameters() if not torch.equal(weight, weights[name])}
        assert changed == {name for name in weights if "lora_" in name}
        for part in ("encoder.layers.0.self_attn", "decoder.layers.0.self_attn", "decoder.layers.1.encoder_attn"):
            assert any(part in name for name in changed)

    def test_saved_reloaded_and_merged_adapters_give_the_same_logits(self, tester, peft_model, batch, tmp_path):
        from peft import PeftModel

        with torch.no_grad():
            plain = build(tester)(**batch).logits
            expected = peft_model.eval()(**batch).logits
            assert (expected - plain).abs().max() > 0.1
            peft_model.save_pretrained(tmp_path / "adapter")
            assert not list((tmp_path / "adapter").glob("model*"))
            loaded = PeftModel.from_pretrained(build(tester), tmp_path / "adapter")
            assert_close(loaded(**batch).logits, expected)
            merged = loaded.merge_and_unload()
            assert type(merged) is tester.model_class
            assert_close(merged(**batch).logits, expected)
            # PEFT compares the head with the embedding of the encoder: of unequal halves it takes the head for untied
            merged.config.tie_word_embeddings = tester.config().tie_word_embeddings
            merged.save_pretrained(tmp_path / "merged")
            again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged")
            assert torch.equal(again(**batch).logits, merged(**batch).logits)

    def test_generation_goes_through_the_adapters(self, tester, peft_model, batch):
        del batch["labels"]
        options = {"max_new_tokens": 8, "do_sample": False}
        tokens = peft_model.generate(**batch, **options)
        assert not torch.equal(tokens, build(tester).generate(**batch, **options))
        assert torch.equal(peft_model.merge_and_unload().generate(**batch, **options), tokens)

    @pytest.mark.parametrize("use_reentrant", [True, False])
    def test_gradient_checkpointing_changes_no_gradient(self, peft_model, batch, use_reentrant):
        peft_model.train()
        torch.manual_seed(1)
        expected = gradients(peft_model, batch)
        assert expected
        # what the Trainer does: the frozen embedding gives what needs no gradient
        peft_model.enable_input_require_grads()
        peft_model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        torch.manual_seed(1)
        actual = gradients(peft_model, batch)
        assert actual.keys() == expected.keys()
        for name, gradient in actual.items():
            assert_close(gradient, expected[name])
