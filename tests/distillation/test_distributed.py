"""Two processes do the step that one process does."""

import pytest
import torch
from distillation_tester import difference
from distributed_step import CASES, IMAGES, found, run_processes


# of each family one kind, and of ours each: what a kind does to the loss has no part in the families
SLOW = [("t5", "sampled and accumulated"), ("bart", "sampled and accumulated")]


@pytest.fixture(scope="module")
def processes(request, tmp_path_factory):
    """What each of two processes has found, by family and kind of training: they are started once."""
    cases = dict.fromkeys(
        (test.callspec.params["family"], test.callspec.params["kind"])
        for test in request.session.items
        if getattr(test, "module", None) is request.module
    )
    return run_processes(tmp_path_factory.mktemp("processes"), [*cases])


@pytest.mark.parametrize(
    ("family", "kind"), [pytest.param(*case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES]
)
class TestPitfall19Processes:
    def test_pitfall_19_gradients_are_those_of_one_process(self, family, kind, processes, tmp_path):
        single = found(tmp_path, family, kind, 1)

        for several in (process[family, kind] for process in processes):
            assert difference(several["gradients"], single["gradients"]) < 1e-5
            for step, expected in zip(several["logged"], single["logged"], strict=True):
                assert step == pytest.approx(expected, rel=1e-5)
            # rows that fill up the last batch are not counted twice
            assert several["evaluated"] == pytest.approx(single["evaluated"], rel=1e-5)
        assert not single["is_wrapped"]

    def test_pitfall_19_student_is_wrapped_and_teacher_is_not(self, family, kind, processes):
        first, second = (process[family, kind] for process in processes)

        assert first["is_wrapped"]
        assert second["is_wrapped"]
        expected = "LlavaForConditionalGeneration" if family == IMAGES else "LlamaForCausalLM"
        assert first["teacher"] == second["teacher"] == expected
        # each has its own rows, of which one has more to learn than the other
        assert len(first["labels"]) == len(second["labels"])
        assert first["labels"] != second["labels"]
        assert torch.equal(first["gradients"], second["gradients"])
