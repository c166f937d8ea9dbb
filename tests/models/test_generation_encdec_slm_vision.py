"""Generation by the vision model, from rows that each have an image."""

import pytest
import torch
from generation_laws import BACKENDS, GREEDY, STRATEGIES, GenerationLaws, generate, until_end
from vision_tester import VisionTester


@pytest.fixture
def tester():
    return VisionTester()


class TestGeneration(GenerationLaws):
    @BACKENDS
    def test_whole_forward_is_one_graph(self, model, tester, backend):
        """Of texts: how an image is cut is decided outside of a graph."""
        rows = [tester.words(length) for length in (9, 5, 7)]
        super().test_whole_forward_is_one_graph(model, tester, tester.batch(rows), backend)

    @STRATEGIES
    def test_mixed_rows_are_answered_as_if_alone(self, model, tester, strategy):
        if strategy.get("do_sample"):
            pytest.skip("a row that is sampled alone draws other numbers")
        rows = [
            tester.words(6),
            tester.row_with_images(3, (8, 8)),
            tester.row_with_images(5, (6, 20), (41, 30), (8, 8)),
            tester.words(2),
        ]
        tokens = generate(model, tester.batch(rows), **strategy)
        for row, expected in zip(rows, tokens, strict=True):
            assert until_end(model, generate(model, row, **strategy)[0]) == until_end(model, expected)

    def test_images_are_seen_once(self, model, tester):
        calls = []
        model.get_encoder().vision_tower.register_forward_hook(lambda *_: calls.append(1))
        for strategy in (GREEDY, {"num_beams": 3}, {**GREEDY, "use_cache": False}):
            generate(model, tester.inputs(), **strategy)
        assert len(calls) == 3

    def test_beams_carry_no_copies_of_the_images(self, model, tester, monkeypatch):
        seen = []
        prepare = model.prepare_inputs_for_generation
        monkeypatch.setattr(
            model,
            "prepare_inputs_for_generation",
            lambda *args, **kwargs: seen.append(kwargs) or prepare(*args, **kwargs),
        )
        generate(model, tester.inputs(), num_beams=3)
        assert seen
        assert not any("pixel_values" in kwargs for kwargs in seen)

    def test_answers_depend_on_the_image(self, model, tester):
        row = tester.row(7)
        tokens = generate(model, row, **GREEDY)
        other = generate(model, {**row, "pixel_values": torch.randn_like(row["pixel_values"])}, **GREEDY)
        assert not torch.equal(tokens, other)
