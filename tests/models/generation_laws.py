"""What holds when any encoder-decoder of this package generates: caches, beams, batches, assistants change nothing."""

import copy

import pytest
import torch
import transformers
from transformers import CompileConfig, set_seed


GREEDY = {"do_sample": False}
BEAMS = {"num_beams": 3, "do_sample": False}
SAMPLING = {"do_sample": True, "top_k": 0, "temperature": 1.5}
BEAM_SAMPLING = {"num_beams": 2, "do_sample": True}
# the graph is made by the first alone, the second computes its derivatives too
BACKENDS = pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
STRATEGIES = pytest.mark.parametrize(
    "strategy", [GREEDY, BEAMS, SAMPLING, BEAM_SAMPLING], ids=["greedy", "beams", "sampling", "beam_sampling"]
)
SEARCHES = pytest.mark.parametrize("strategy", [GREEDY, BEAMS], ids=["greedy", "beams"])
LENGTH = {"max_new_tokens": 12}


def until_end(model, row):
    """One row of tokens up to its first end token: what follows is padding, for beams and id 0 end tokens too."""
    row, end = row.tolist(), model.config.eos_token_id
    return row[: row.index(end) + 1] if end in row else row


def generate(model, inputs, **options):
    set_seed(0)
    return model.generate(**inputs, **{**LENGTH, **options})


class GenerationLaws:
    """Laws of `generate`. A subclass, or its module, gives the fixture `tester`."""

    @pytest.fixture
    def inputs(self, tester):
        return tester.inputs()

    def test_answers_differ_so_that_equal_ones_say_something(self, model, inputs):
        greedy = generate(model, inputs, **GREEDY)
        assert greedy.shape == (3, 13)
        assert len({tuple(row) for row in greedy.tolist()}) == 3
        assert len(greedy.unique()) > 6
        assert not torch.equal(generate(model, inputs, **BEAMS), greedy)
        assert not torch.equal(generate(model, inputs, **SAMPLING), greedy)

    @STRATEGIES
    def test_cache_changes_nothing(self, model, inputs, strategy):
        tokens = generate(model, inputs, **strategy)
        assert torch.equal(generate(model, inputs, **strategy, use_cache=False), tokens)

    @STRATEGIES
    @pytest.mark.parametrize("implementation", ["sdpa", "eager"])
    def test_static_cache_is_the_dynamic_one(self, model, inputs, strategy, implementation):
        model.set_attn_implementation(implementation)
        tokens = generate(model, inputs, **strategy)
        assert torch.equal(generate(model, inputs, **strategy, cache_implementation="static"), tokens)

    def compiled_graphs(self, model, inputs, **strategy):
        """Checks that compiled steps generate what others do; returns the graphs that were compiled."""
        graphs = []

        def backend(graph, _example_inputs):
            graphs.append(graph)
            return graph.forward

        torch.compiler.reset()
        expected = generate(model, inputs, **strategy)
        compiled = CompileConfig(fullgraph=True, backend=backend, mode=None, dynamic=False)
        # otherwise compiled on a GPU only
        compiled._compile_all_devices = True
        options = {"cache_implementation": "static", "compile_config": compiled}
        assert torch.equal(generate(model, inputs, **strategy, **options), expected)
        count = len(graphs)
        assert torch.equal(generate(model, inputs, **strategy, **options), expected)
        assert len(graphs) == count
        return graphs

    # the library does not compile the steps of a beam search
    @pytest.mark.parametrize(
        "strategy", [GREEDY, pytest.param(SAMPLING, marks=pytest.mark.slow)], ids=["greedy", "sampling"]
    )
    def test_decoding_step_is_one_graph(self, model, inputs, strategy):
        assert len(self.compiled_graphs(model, inputs, **strategy)) == 1

    @pytest.mark.slow
    def test_decoding_step_compiled_to_machine_code(self, model, inputs):
        torch.compiler.reset()
        expected = generate(model, inputs, **GREEDY)
        compiled = CompileConfig(fullgraph=True, mode="default", dynamic=False)
        compiled._compile_all_devices = True
        options = {"cache_implementation": "static", "compile_config": compiled}
        assert torch.equal(generate(model, inputs, **GREEDY, **options), expected)

    @SEARCHES
    @pytest.mark.parametrize("padding_side", ["left", "right"])
    def test_rows_of_a_batch_are_answered_as_if_alone(self, model, tester, padding_side, strategy):
        rows = [tester.row(length) for length in (9, 4, 1)]
        tokens = generate(model, tester.batch(rows, padding_side), **strategy)
        for row, expected in zip(rows, tokens, strict=True):
            alone = generate(model, row, **strategy)
            assert until_end(model, alone[0]) == until_end(model, expected)

    @SEARCHES
    def test_started_answers_of_unequal_length_are_padded_on_the_left(self, model, tester, inputs, strategy):
        starts, mask = tester.targets(3, 4), torch.ones(3, 4, dtype=torch.long)
        mask[1, :3] = mask[2, :1] = 0
        starts[torch.arange(3), torch.tensor([0, 3, 1])] = model.config.decoder_start_token_id
        options = {**strategy, "decoder_input_ids": starts, "decoder_attention_mask": mask}
        tokens = generate(model, inputs, **options)
        assert torch.equal(tokens[:, :4], starts)
        assert torch.equal(generate(model, inputs, **options, use_cache=False), tokens)
        assert torch.equal(generate(model, inputs, **options, cache_implementation="static"), tokens)
        for i in range(3):
            row = {name: value[i : i + 1] for name, value in inputs.items()}
            start = starts[i : i + 1, mask[i].bool()]
            alone = generate(
                model, row, **strategy, decoder_input_ids=start, decoder_attention_mask=torch.ones_like(start)
            )
            assert until_end(model, alone[0, start.shape[1] :]) == until_end(model, tokens[i, 4:])

    def test_greedy_answer_is_its_own_continuation(self, model, inputs):
        tokens = generate(model, inputs, **GREEDY, eos_token_id=None)
        options = {**GREEDY, "eos_token_id": None, "max_new_tokens": 6}
        assert torch.equal(generate(model, inputs, **options, decoder_input_ids=tokens[:, :7]), tokens)

    def test_greedy_tokens_are_the_most_probable(self, model, inputs):
        outputs = generate(
            model, inputs, **GREEDY, min_new_tokens=12, return_dict_in_generate=True, output_logits=True
        )
        logits = model(**inputs, decoder_input_ids=outputs.sequences[:, :-1]).logits
        torch.testing.assert_close(torch.stack(outputs.logits, dim=1), logits, atol=1e-4, rtol=1e-4)
        logits[..., model.config.eos_token_id] = -torch.inf
        assert torch.equal(logits.argmax(-1), outputs.sequences[:, 1:])

    def test_beams_are_scored_by_the_model(self, model, inputs):
        outputs = generate(
            model,
            inputs,
            num_beams=4,
            num_return_sequences=3,
            min_new_tokens=12,
            length_penalty=2.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        assert outputs.sequences.shape == (9, 13)
        assert len({tuple(row) for row in outputs.sequences.tolist()}) == 9
        scores = outputs.sequences_scores.view(3, 3)
        assert torch.equal(scores.sort(dim=1, descending=True).values, scores)
        repeated = {name: value.repeat_interleave(3, dim=0) for name, value in inputs.items()}
        logits = model(**repeated, decoder_input_ids=outputs.sequences[:, :-1]).logits
        tokens = outputs.sequences[:, 1:, None]
        by_hand = logits.log_softmax(-1).gather(2, tokens).sum(dim=(1, 2)) / 12**2.0
        torch.testing.assert_close(outputs.sequences_scores, by_hand, atol=1e-4, rtol=1e-4)

    def test_several_samples_of_each_row(self, model, inputs):
        tokens = generate(model, inputs, **SAMPLING, num_return_sequences=4)
        assert tokens.shape == (12, 13)
        assert len({tuple(row) for row in tokens.tolist()}) == 12
        only_choice = generate(model, inputs, do_sample=True, top_k=1, num_return_sequences=2)
        assert torch.equal(only_choice, generate(model, inputs, **GREEDY).repeat_interleave(2, dim=0))

    @pytest.mark.parametrize("use_itself", [True, False], ids=["itself", "smaller"])
    def test_assistant_changes_nothing(self, model, tester, use_itself):
        smaller = tester.assistant()
        assert smaller.num_parameters() < model.num_parameters()
        row = tester.row(8)
        tokens = generate(model, row, **GREEDY)
        assert torch.equal(generate(model, row, **GREEDY, assistant_model=model if use_itself else smaller), tokens)

    def test_assistant_that_agrees_is_believed(self, model, tester):
        assistant, calls = copy.deepcopy(model), []
        assistant.generation_config.num_assistant_tokens = 5
        assistant.generation_config.num_assistant_tokens_schedule = "constant"
        assistant.generation_config.assistant_confidence_threshold = 0.0
        model.get_decoder().register_forward_hook(lambda *_: calls.append(1))
        options = {**GREEDY, "eos_token_id": None, "max_new_tokens": 30}
        row = tester.row(8)
        tokens = generate(model, row, **options)
        assert len(calls) == 30
        assert torch.equal(generate(model, row, **options, assistant_model=assistant), tokens)
        # five candidates and one token of its own at a time; the end may take a call more
        assert len(calls) - 30 in (30 // 6, 30 // 6 + 1)

    def test_prompt_lookup_changes_nothing(self, model, tester):
        row = tester.row(8)
        tokens = generate(model, row, **GREEDY, max_new_tokens=30)
        found = generate(model, row, **GREEDY, max_new_tokens=30, prompt_lookup_num_tokens=3)
        if transformers.__version__.startswith("5.4."):
            # a candidate may go a token beyond the length that was asked for
            found = found[:, : tokens.shape[1]]
        assert torch.equal(found, tokens)

    def test_generation_stops_at_the_end_and_pads(self, model, inputs):
        tokens = generate(model, inputs, **GREEDY, eos_token_id=None)
        end = tokens[0, 4].item()
        ended = generate(model, inputs, **GREEDY, eos_token_id=[end, model.config.eos_token_id])
        for row, full in zip(ended.tolist(), tokens.tolist(), strict=True):
            stops = [i for i, token in enumerate(full) if token in (end, model.config.eos_token_id)]
            length = min([*stops, len(full) - 1]) + 1
            assert row[:length] == full[:length]
            assert set(row[length:]) <= {model.config.pad_token_id}
        assert ended[0].tolist().index(end) <= 4

    @SEARCHES
    def test_encoder_may_run_before(self, model, inputs, strategy):
        tokens = generate(model, inputs, **strategy)
        states = model.get_encoder()(**inputs)
        given = {"encoder_outputs": states, "attention_mask": inputs["attention_mask"]}
        assert torch.equal(generate(model, given, **strategy), tokens)

    @SEARCHES
    def test_embeddings_may_be_given_for_ids(self, model, inputs, strategy):
        tokens = generate(model, inputs, **strategy)
        embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
        assert torch.equal(generate(model, {**inputs, "inputs_embeds": embeds}, **strategy), tokens)

    def test_returned_cache_can_be_continued(self, model, inputs):
        tokens = generate(model, inputs, **GREEDY, eos_token_id=None)
        first = generate(model, inputs, **GREEDY, eos_token_id=None, max_new_tokens=5, return_dict_in_generate=True)
        assert first.past_key_values.get_seq_length() == 5
        second = generate(
            model,
            inputs,
            **GREEDY,
            eos_token_id=None,
            max_new_tokens=7,
            decoder_input_ids=first.sequences,
            past_key_values=first.past_key_values,
        )
        assert torch.equal(second, tokens)

    def test_attentions_of_every_step_are_returned(self, model, inputs):
        model.set_attn_implementation("eager")
        outputs = generate(
            model, inputs, **GREEDY, min_new_tokens=12, return_dict_in_generate=True, output_attentions=True
        )
        source, heads = inputs["attention_mask"].shape[1], model.config.decoder.num_attention_heads
        assert outputs.encoder_attentions[0].shape[-2:] == (source, source)
        for step, (own, cross) in enumerate(zip(outputs.decoder_attentions, outputs.cross_attentions, strict=True)):
            assert [layer.shape for layer in own] == [(3, heads, 1, step + 1)] * model.config.decoder.num_hidden_layers
            assert {layer.shape for layer in cross} == {(3, heads, 1, source)}

    @BACKENDS
    def test_whole_forward_is_one_graph(self, model, tester, inputs, backend):
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend=backend)
        labels = tester.targets()
        expected, outputs = model(**inputs, labels=labels), compiled(**inputs, labels=labels)
        torch.testing.assert_close(outputs.logits, expected.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(outputs.loss, expected.loss, atol=1e-4, rtol=1e-4)
