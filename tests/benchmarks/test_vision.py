"""The comparison with images: equal peers, shared weights, counts that add up by hand, tables and the record."""

import json
from contextlib import redirect_stdout
from io import StringIO

import pytest
import torch
from transformers import AutoModelForImageTextToText

from encdec_slm.benchmarks.counting import TokenCost
from encdec_slm.benchmarks.decoding import Measurement
from encdec_slm.benchmarks.timing import Latency
from encdec_slm.benchmarks.vision import (
    Counts,
    ImageMeasurement,
    configurations,
    count,
    first_token_table,
    main,
    next_token_table,
)
from encdec_slm.benchmarks.vision_models import OURS, PEER, Question, build, cases, peer_configurations


SIZES = {"--preset": "tiny", "--views": 2, "--text-tokens": 5, "--new-tokens": 2, "--repeats": 2}
QUESTION = Question(views=2, text_tokens=5)


@pytest.fixture(scope="module")
def tiny_cases():
    return cases(configurations("tiny"), QUESTION, "float32")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What the command writes and prints."""
    threads, path = torch.get_num_threads(), tmp_path_factory.mktemp("vision") / "record.json"
    try:
        with redirect_stdout(StringIO()) as printed:
            main([str(part) for option in SIZES.items() for part in option] + ["--output", str(path)])
    finally:
        torch.set_num_threads(threads)
    (run,) = json.loads(path.read_text())
    return {**run, "printed": printed.getvalue().splitlines()}


def counts(run):
    return [row["counts"] for row in run["measurements"]]


def test_decoder_only_model_has_as_many_parameters_within_one_percent():
    configs = configurations("330m")
    peers = peer_configurations(configs)
    with torch.device("meta"):
        for name, peer in peers.items():
            ours, theirs = (AutoModelForImageTextToText.from_config(config) for config in (configs[name], peer))
            assert theirs.num_parameters() == pytest.approx(ours.num_parameters(), rel=0.01)
            assert theirs.config.vision_config.to_dict() == ours.config.encoder.vision_config.to_dict()


def test_real_size_has_the_tokens_of_the_issue_in_four_views():
    configs = configurations("330m")
    assert [4 * configs[name].encoder.image_geometry.patches_per_side ** 2 for name in ("plain", "compressed")] == [
        2304,
        576,
    ]


def test_all_models_have_one_tower_and_those_of_an_architecture_one_set_of_weights(tiny_cases):
    models = {id(case.contestant.model): case.contestant.model for case in tiny_cases}.values()
    towers = [
        {weight.data_ptr() for name, weight in model.named_parameters() if "vision_tower" in name} for model in models
    ]
    assert len(towers) == 5
    assert all(tower == towers[0] for tower in towers)
    own = {weight for model in models for weight in model.parameters()}
    # two projectors each at most, beside one text model of each architecture and the tower
    assert sum(weight.numel() for weight in own) < 2.1 * max(model.num_parameters() for model in models)


def test_shared_weights_stay_tied():
    models = build(configurations("tiny"), "float32")
    for model in models.values():
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert models["plain"].num_parameters() == models["pooled"].num_parameters()


def test_a_token_costs_more_with_an_image_by_the_attention_to_its_states_alone(run):
    configs = configurations("tiny")
    for family, config in ((OURS, configs["plain"]), (PEER, peer_configurations(configs)["plain"])):
        stack = config.get_text_config(decoder=True)
        # a product with the keys and one with the values, two operations each
        flops = 4 * stack.num_hidden_layers * stack.num_attention_heads * stack.head_dim
        # keys and values of four bytes a number
        cached = 4 * 2 * stack.num_hidden_layers * stack.num_key_value_heads * stack.head_dim
        text, *with_images = (row for row in run["measurements"] if row["family"] == family)
        text = text["counts"]
        for measured in with_images:
            row, states = measured["counts"], measured["image_states"]
            assert row["next_token"]["flops"] - text["next_token"]["flops"] == flops * states
            assert row["cache_bytes"] - text["cache_bytes"] == cached * states
            assert row["next_token"]["weight_bytes"] == text["next_token"]["weight_bytes"]


def test_weights_read_for_a_token_are_the_decoder_without_what_reads_the_encoder(tiny_cases, run):
    text, _, whole = counts(run)[:3]
    decoder = tiny_cases[0].contestant.model.model.decoder
    read = {weight for name, weight in decoder.named_parameters() if "encoder_attn.kv_proj" not in name}
    assert text["next_token"]["weight_bytes"] == sum(weight.nbytes for weight in read)
    # the first token needs all that an image passes too
    assert text["first_token"]["weight_bytes"] < whole["first_token"]["weight_bytes"] < whole["weight_bytes"]


def test_operations_are_counted_whichever_library_computes_them(tiny_cases, run, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    again = count(tiny_cases[2])
    assert again.first_token.flops == counts(run)[2]["first_token"]["flops"]


def test_more_is_allocated_for_more_image_tokens_and_kept_for_those_that_are_read(run):
    text, compressed, whole, averaged = counts(run)[:4]
    assert text["peak_bytes"] < compressed["peak_bytes"] < whole["peak_bytes"]
    assert text["cache_bytes"] < averaged["cache_bytes"] == compressed["cache_bytes"] < whole["cache_bytes"]


def test_tables_by_hand():
    def measurement(family, image_tokens, seconds, count):
        latencies = tuple(Latency(10 * second, second) for second in seconds)
        return ImageMeasurement(
            family=family,
            image_tokens=image_tokens,
            image_states=image_tokens,
            answers=Measurement("", 7, latencies, latencies),
            tower_seconds=((9.0, 0.1),) * len(seconds) if image_tokens else ((0.0, 0.0),) * len(seconds),
            counts=Counts(
                weight_bytes=3 * 2**20,
                peak_bytes=2**20,
                cache_bytes=count * 2**20,
                first_token=TokenCost(flops=2 * 10**9, weight_bytes=0),
                next_token=TokenCost(flops=count * 10**6, weight_bytes=2**20),
            ),
        )

    rows = [
        measurement(OURS, 0, (0.02, 0.5, 0.01), 1),
        measurement(OURS, 4, (0.03, 0.03, 0.9), 2),
        measurement(PEER, 0, (0.04, 0.04, 0.0), 3),
        measurement(PEER, 4, (0.05, 0.05, 0.0), 4),
    ]
    assert "| encdec_slm | 7 | 4 | 100 | 200 | 300 (300) | 1.000 | 2.0 | 4 | 3 | 2.0 |" in first_token_table(rows)
    assert "| decoder-only | 7 | 4 | 100 | 400 | 500 (500) | 0.600 | 2.0 | 4 | 3 | 4.0 |" in first_token_table(rows)
    assert (
        "| decoder-only | 4 | 4 | 50.00 (50.00) | 0.600 | +25.0 % | 5.0 | +25.0 % | 4.0 | +33.3 % |"
        in next_token_table(rows)
    )


def test_record_has_every_call_of_every_case(run):
    assert [(row["family"], row["image_tokens"], row["image_states"]) for row in run["measurements"]] == [
        (OURS, 0, 0),
        (OURS, 8, 8),
        (OURS, 32, 32),
        (OURS, 32, 8),
        (PEER, 0, 0),
        (PEER, 8, 8),
        (PEER, 32, 32),
    ]
    for row in run["measurements"]:
        calls = list(zip(row["answers"]["wall"], row["tower_seconds"], strict=True))
        assert len(calls) == SIZES["--repeats"]
        assert all(whole["first_token_seconds"] > tower for whole, (tower, _) in calls)
        assert all(bool(row["image_tokens"]) == (tower > 0) for _, (tower, _) in calls)
    assert run["settings"]["dtype"] == "float32"
    assert {"processor", "threads", "torch", "transformers"} <= run["conditions"].keys()
    assert sum(line.startswith("| encdec_slm, states averaged | ") for line in run["printed"]) == 2
