"""Budgets and the decoder-only peer: equal tasks, equal sizes, as many tokens of a picture, and parts done once."""

import json

import picture_budgets
import pytest
import torch
from data.efficientnet_lite import efficientnet_lite0
from picture_budgets import ALL_TOKENS, COMPARED, CONTESTANTS, SHUFFLED, main, table
from picture_peer import PeerCollator, build_text_peer, build_vision_peer, peer_answers
from remembered_tower import RememberingTower
from transformers import AutoModel
from vision_model import TOWER_LAYER, build_text_model, build_tokenizer, build_vision_model
from vision_rows import load_splits, seen

from encdec_slm.image_text_collator import DataCollatorForImageTextToText


OURS, PEER = "encoder-decoder, 49 tokens by pixel shuffle", "decoder-only, 49 tokens by pixel shuffle"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("budgets")


@pytest.fixture(scope="module")
def rows(root, few_emoji):
    splits = load_splits(3, 2, question_types=COMPARED, cache_dir=root / "cache")
    return splits.test.select(range(5, 11))


@pytest.fixture(scope="module")
def tokenizer(rows):
    return build_tokenizer([*rows["source"], *rows["target"]])


@pytest.fixture(scope="module", params=[ALL_TOKENS, SHUFFLED], ids=["all", "shuffled"])
def pair(request, root, tokenizer):
    """Ours, its processor and the peer, with random weights and one tower."""
    folder = efficientnet_lite0(root / "tower")
    ours, processor = build_vision_model(build_text_model(tokenizer), folder, tokenizer, **request.param)
    memory = RememberingTower(AutoModel.from_pretrained(folder).eval(), TOWER_LAYER)
    return ours, processor, build_vision_peer(build_text_peer(tokenizer), ours, memory).eval()


def test_both_have_as_many_parameters_beside_the_tower(pair):
    ours, _, peer = pair
    tower = ours.get_encoder().vision_tower.num_parameters()
    assert peer.num_parameters() == pytest.approx(ours.num_parameters() - tower, rel=0.02)


@torch.no_grad()
def test_the_projector_of_the_peer_is_given_what_ours_is(pair, rows):
    ours, processor, peer = pair
    batch = PeerCollator(processor)(list(seen(rows)))
    projector, other = ours.get_encoder().multi_modal_projector, peer.model.multi_modal_projector
    other.load_state_dict(projector.state_dict())
    expected = torch.stack(ours.get_image_features(batch["pixel_values"]).pooler_output)
    found = torch.stack(list(peer.get_image_features(batch["pixel_values"]).pooler_output))
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_the_loss_of_the_peer_is_that_of_the_answers_one_by_one(pair, rows):
    _, processor, peer = pair
    collator, rows = PeerCollator(processor), list(seen(rows))
    batch = collator(rows)
    labels = DataCollatorForImageTextToText(processor)(rows)["labels"]
    assert [line[line != -100].tolist() for line in batch["labels"]] == [
        line[line != -100].tolist() for line in labels
    ]
    counts = [int((line != -100).sum()) for line in labels]
    alone = [peer(**collator([row])).loss * count for row, count in zip(rows, counts, strict=True)]
    torch.testing.assert_close(peer(**batch).loss, sum(alone) / sum(counts))


def test_the_peer_answers_a_batch_as_one_by_one(pair, rows):
    _, processor, peer = pair
    together = peer_answers(peer, seen(rows), processor)
    assert together == [peer_answers(peer, seen(rows.select([index])), processor)[0] for index in range(len(rows))]


def test_every_part_is_done_once_and_kept(root, few_emoji, capsys, monkeypatch):
    # one of each kind
    for name in CONTESTANTS.keys() - {OURS, PEER}:
        monkeypatch.delitem(picture_budgets.CONTESTANTS, name)
    flags = (
        "--max_steps 1 --text_steps 1 --projector_steps 1 --charts 3 --test_charts 2 --threads 1 "
        "--disable_tqdm true --per_device_train_batch_size 2"
    )
    folders = {"output_dir": root / "out", "cache_dir": root / "cache", "tower_dir": root / "tower"}
    results = root / "results.json"
    arguments = [*flags.split(), "--results", str(results)]
    arguments += [part for name, folder in folders.items() for part in (f"--{name}", str(folder))]
    records = main(arguments)
    assert [record["name"] for record in records] == [OURS, PEER]
    assert {record["name"] for record in json.loads(results.read_text())} == {OURS, PEER}
    assert "emoji: subgroup" in records[0]["accuracy"]
    assert "emoji: tag" not in records[0]["accuracy"]
    assert table(records) in capsys.readouterr().out
    for name in (OURS, PEER):
        monkeypatch.setitem(picture_budgets.CONTESTANTS, name, lambda _: pytest.fail("it was done already"))
    assert main(arguments) == records
    with pytest.raises(ValueError, match="was made with projector_steps 1, not 2"):
        main([*arguments, "--projector_steps", "2"])
