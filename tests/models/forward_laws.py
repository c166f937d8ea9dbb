"""What holds for one call of any encoder-decoder of this package: masks, attention, caches, optional inputs."""

from itertools import pairwise

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


class ForwardLaws:
    """Laws of `forward`. A subclass, or its module, gives the fixture `tester`."""

    @pytest.fixture(autouse=True)
    def _no_grad(self):
        with torch.no_grad():
            yield

    @pytest.fixture
    def inputs(self, tester):
        return tester.inputs()

    @pytest.fixture
    def decoder_input_ids(self, tester):
        return tester.targets()

    def test_what_the_mask_hides_does_not_count(self, model, tester, inputs, decoder_input_ids):
        other = {**inputs, "input_ids": tester.inputs()["input_ids"]}
        visible = inputs["attention_mask"].bool()
        other["input_ids"][visible] = inputs["input_ids"][visible]
        assert not torch.equal(inputs["input_ids"], other["input_ids"])
        logits = model(**inputs, decoder_input_ids=decoder_input_ids).logits
        assert_close(model(**other, decoder_input_ids=decoder_input_ids).logits, logits)

    @pytest.mark.parametrize("padding_side", ["left", "right"])
    def test_padding_of_the_encoder_changes_nothing(self, model, tester, decoder_input_ids, padding_side):
        rows = [tester.row(length) for length in (9, 5, 1)]
        logits = model(**tester.batch(rows, padding_side), decoder_input_ids=decoder_input_ids).logits
        for i, row in enumerate(rows):
            alone = model(**row, decoder_input_ids=decoder_input_ids[i : i + 1]).logits
            assert_close(logits[i : i + 1], alone)

    @pytest.mark.parametrize("padding_side", ["left", "right"])
    def test_padding_of_the_decoder_changes_nothing(self, model, tester, inputs, decoder_input_ids, padding_side):
        mask = torch.ones_like(decoder_input_ids)
        shown = slice(2, None) if padding_side == "left" else slice(0, -2)
        mask[0] = 0
        mask[0, shown] = 1
        logits = model(**inputs, decoder_input_ids=decoder_input_ids, decoder_attention_mask=mask).logits
        full = model(**inputs, decoder_input_ids=decoder_input_ids).logits
        row = {name: value[:1] for name, value in inputs.items()}
        assert_close(logits[0, shown], model(**row, decoder_input_ids=decoder_input_ids[:1, shown]).logits[0])
        assert_close(logits[1:], full[1:])

    def test_decoder_sees_the_past_and_encoder_both_sides(self, model, inputs, decoder_input_ids):
        outputs = model(**inputs, decoder_input_ids=decoder_input_ids)
        decoder_input_ids[:, 3] += 1 - 2 * (decoder_input_ids[:, 3] == model.config.vocab_size - 1).long()
        changed = model(**inputs, decoder_input_ids=decoder_input_ids)
        assert_close(changed.logits[:, :3], outputs.logits[:, :3])
        assert (changed.logits[:, 3:] - outputs.logits[:, 3:]).abs().amax((0, 2)).min() > 1e-3
        # the last token that every row shows
        inputs["input_ids"][:, 4] += 1 - 2 * (inputs["input_ids"][:, 4] == model.config.vocab_size - 1).long()
        changed = model(**inputs, decoder_input_ids=decoder_input_ids)
        difference = changed.encoder_last_hidden_state - outputs.encoder_last_hidden_state
        assert difference[:, :5].abs().amax((0, 2)).min() > 1e-3

    @pytest.mark.parametrize("implementation", ["eager", "flex_attention"])
    def test_attention_implementations_agree(self, model, inputs, decoder_input_ids, implementation):
        mask = torch.ones_like(decoder_input_ids)
        # padding on the left, and a hole; what comes of positions that see no token at all is not compared
        mask[0, :2] = mask[1, 1:3] = 0
        arguments = {**inputs, "decoder_input_ids": decoder_input_ids, "decoder_attention_mask": mask}
        # random weights of this size multiply what single precision rounds off, more on some processors than on others
        model = model.double()
        assert model.config._attn_implementation == "sdpa"
        expected = model(**arguments).logits
        step = model(**inputs, decoder_input_ids=decoder_input_ids[:, :1]).logits
        model.set_attn_implementation(implementation)
        # flex attention compiles its kernel, which takes a minute; uncompiled it computes the same
        with torch.compiler.set_stance("force_eager"):
            logits = model(**arguments).logits
            one_token = model(**inputs, decoder_input_ids=decoder_input_ids[:, :1]).logits
        assert_close(logits[mask.bool()], expected[mask.bool()])
        assert_close(one_token, step)

    def test_eager_attention_returns_its_weights(self, model, tester, inputs, decoder_input_ids):
        model.set_attn_implementation("eager")
        outputs = model(**inputs, decoder_input_ids=decoder_input_ids, output_attentions=True)
        encoder, decoder = model.config.encoder, model.config.decoder
        (batch, source), target = inputs["attention_mask"].shape, decoder_input_ids.shape[1]
        hidden = ~inputs["attention_mask"].bool()[:, None, None, :]
        for weights, config, shape, invisible in (
            (outputs.encoder_attentions, encoder, (source, source), hidden),
            (outputs.decoder_attentions, decoder, (target, target), torch.ones(target, target).triu(1).bool()),
            (outputs.cross_attentions, decoder, (target, source), hidden),
        ):
            assert len(weights) == config.num_hidden_layers
            for layer in weights:
                assert layer.shape == (batch, config.num_attention_heads, *shape)
                assert_close(layer.sum(-1), torch.ones(layer.shape[:-1]))
                assert not layer.masked_select(invisible).any()

    def test_hidden_states_lead_from_the_embedding_to_the_logits(self, model, inputs, decoder_input_ids):
        outputs = model(**inputs, decoder_input_ids=decoder_input_ids, output_hidden_states=True)
        encoder, decoder = outputs.encoder_hidden_states, outputs.decoder_hidden_states
        assert len(encoder) == model.config.encoder.num_hidden_layers + 1
        assert len(decoder) == model.config.decoder.num_hidden_layers + 1
        assert torch.equal(encoder[0], model.get_encoder().embed_tokens(inputs["input_ids"]))
        assert torch.equal(encoder[-1], outputs.encoder_last_hidden_state)
        assert torch.equal(decoder[0], model.get_decoder().embed_tokens(decoder_input_ids))
        assert_close(model.lm_head(decoder[-1]), outputs.logits)
        assert all(not torch.equal(low, high) for low, high in pairwise(decoder))

    def test_logits_to_keep(self, model, inputs, decoder_input_ids):
        arguments = {**inputs, "decoder_input_ids": decoder_input_ids}
        logits = model(**arguments).logits
        assert logits.shape == (*decoder_input_ids.shape, model.config.vocab_size)
        assert_close(model(**arguments, logits_to_keep=2).logits, logits[:, -2:])
        chosen = torch.tensor([0, 3])
        assert_close(model(**arguments, logits_to_keep=chosen).logits, logits[:, chosen])

    @pytest.mark.parametrize("step", [1, 2])
    def test_cached_steps_give_the_logits_of_one_call(self, model, inputs, decoder_input_ids, step):
        mask = torch.ones_like(decoder_input_ids)
        mask[0, :1] = 0
        expected = model(**inputs, decoder_input_ids=decoder_input_ids, decoder_attention_mask=mask).logits
        cache, encoder_outputs, logits = None, None, []
        for end in range(step, decoder_input_ids.shape[1] + 1, step):
            outputs = model(
                # after the first step the encoder is not needed any more
                **(inputs if encoder_outputs is None else {"attention_mask": inputs["attention_mask"]}),
                encoder_outputs=encoder_outputs,
                decoder_input_ids=decoder_input_ids[:, end - step : end],
                decoder_attention_mask=mask[:, :end],
                past_key_values=cache,
                use_cache=True,
            )
            cache, logits = outputs.past_key_values, [*logits, outputs.logits]
            encoder_outputs = BaseModelOutput(outputs.encoder_last_hidden_state)
            assert cache.get_seq_length() == end
        assert_close(torch.cat(logits, dim=1)[mask.bool()], expected[mask.bool()])

    def test_encoder_is_read_once(self, model, inputs, decoder_input_ids):
        empty = EncoderDecoderCache(
            DynamicCache(config=model.config.decoder), DynamicCache(config=model.config.decoder)
        )
        first = model(**inputs, decoder_input_ids=decoder_input_ids[:, :1], past_key_values=empty)
        cache = first.past_key_values
        assert cache is empty
        forgotten = BaseModelOutput(torch.zeros_like(first.encoder_last_hidden_state))
        mask = inputs["attention_mask"]
        second = model(
            attention_mask=mask,
            encoder_outputs=forgotten,
            decoder_input_ids=decoder_input_ids[:, 1:],
            past_key_values=cache,
        )
        assert_close(second.logits, model(**inputs, decoder_input_ids=decoder_input_ids).logits[:, 1:])

    def test_use_cache_decides_whether_keys_are_returned(self, model, inputs, decoder_input_ids):
        arguments = {**inputs, "decoder_input_ids": decoder_input_ids}
        assert model(**arguments).past_key_values.get_seq_length() == decoder_input_ids.shape[1]
        assert model(**arguments, use_cache=False).past_key_values is None
        assert model(**arguments, labels=decoder_input_ids).past_key_values is None
        assert model(**arguments, labels=decoder_input_ids, use_cache=True).past_key_values is not None
        model.config.use_cache = False
        assert model(**arguments).past_key_values is None

    def test_encoder_outputs_may_be_given(self, model, inputs, decoder_input_ids):
        expected = model(**inputs, decoder_input_ids=decoder_input_ids).logits
        states = model.get_encoder()(**inputs)
        given = {"attention_mask": inputs["attention_mask"], "decoder_input_ids": decoder_input_ids}
        assert_close(model(**given, encoder_outputs=states).logits, expected)
        assert_close(model(**given, encoder_outputs=(states.last_hidden_state,)).logits, expected)

    def test_embeddings_may_be_given_for_ids(self, model, inputs, decoder_input_ids):
        expected = model(**inputs, decoder_input_ids=decoder_input_ids).logits
        embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
        decoder_embeds = model.get_decoder().embed_tokens(decoder_input_ids)
        assert_close(model(**inputs, inputs_embeds=embeds, decoder_input_ids=decoder_input_ids).logits, expected)
        assert_close(model(**inputs, inputs_embeds=embeds, decoder_inputs_embeds=decoder_embeds).logits, expected)

    def test_positions_may_be_given(self, model, inputs, decoder_input_ids):
        arguments = {**inputs, "decoder_input_ids": decoder_input_ids}
        length, target = inputs["attention_mask"].shape[1], decoder_input_ids.shape[1]
        usual = {"position_ids": torch.arange(length)[None], "decoder_position_ids": torch.arange(target)[None]}
        expected = model(**arguments).logits
        assert_close(model(**arguments, **usual).logits, expected)
        for name, positions in usual.items():
            assert (model(**arguments, **{name: 2 * positions}).logits - expected).abs().max() > 1e-3

    def test_empty_sequences_are_refused(self, model, inputs, decoder_input_ids):
        nothing = {name: value[:, :0] for name, value in inputs.items()}
        for arguments in (
            {**nothing, "decoder_input_ids": decoder_input_ids},
            {**inputs, "decoder_input_ids": decoder_input_ids[:, :0]},
        ):
            with pytest.raises(ValueError, match="no token"):
                model(**arguments)

    def test_tuple_holds_what_the_output_holds(self, model, inputs, decoder_input_ids):
        arguments = {**inputs, "decoder_input_ids": decoder_input_ids, "use_cache": False}
        expected = model(**arguments)
        values = model(**arguments, return_dict=False)
        assert isinstance(values, tuple)
        assert list(expected) == ["logits", "encoder_last_hidden_state"]
        for value, name in zip(values, expected, strict=True):
            assert_close(value, expected[name])

    def test_base_model_gives_the_states_before_the_head(self, model, inputs, decoder_input_ids):
        outputs = model.base_model(**inputs, decoder_input_ids=decoder_input_ids)
        expected = model(**inputs, decoder_input_ids=decoder_input_ids)
        assert_close(model.lm_head(outputs.last_hidden_state), expected.logits)
        assert_close(outputs.encoder_last_hidden_state, expected.encoder_last_hidden_state)

    def test_dropout_is_for_training(self, model, inputs, decoder_input_ids):
        arguments = {**inputs, "decoder_input_ids": decoder_input_ids}
        expected = model(**arguments).logits
        assert torch.equal(model(**arguments).logits, expected)
        model.train()
        assert not torch.equal(model(**arguments).logits, model(**arguments).logits)

    @pytest.mark.parametrize("stack", ["encoder", "decoder"])
    @pytest.mark.parametrize("kind", ["dropout", "attention_dropout"])
    def test_each_dropout_acts(self, tester, inputs, decoder_input_ids, stack, kind):
        model = tester.model()
        arguments = {**inputs, "decoder_input_ids": decoder_input_ids}
        config = tester.config()
        for half in (config.encoder, config.decoder):
            half.dropout = half.attention_dropout = 0.0
        off = type(model)(config).train()
        off.load_state_dict(model.state_dict())
        expected = model(**arguments).logits
        assert_close(off(**arguments).logits, expected)
        setattr(getattr(config, stack), kind, 0.5)
        on = type(model)(config).train()
        on.load_state_dict(model.state_dict())
        assert (on(**arguments).logits - expected).abs().max() > 1e-2

    def test_ids_and_embeddings_exclude_each_other(self, model, inputs, decoder_input_ids):
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        decoder_embeds = model.get_decoder().embed_tokens(decoder_input_ids)
        for both in (
            {**inputs, "inputs_embeds": embeds, "decoder_input_ids": decoder_input_ids},
            {**inputs, "decoder_input_ids": decoder_input_ids, "decoder_inputs_embeds": decoder_embeds},
            {"attention_mask": inputs["attention_mask"], "decoder_input_ids": decoder_input_ids},
            inputs,
        ):
            with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
                model(**both)
