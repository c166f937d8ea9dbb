"""What a cache says of itself and of its files is checked before anything is read from them."""

import json

import pytest
from cache_tester import DATASET, cache_writing, files_of, keys_of
from tokenizers.normalizers import Lowercase
from transformers import AutoTokenizer, ByT5Tokenizer
from word_tokenizers import save_word_tokenizer

from encdec_slm.distillation.cache import TeacherCache
from encdec_slm.distillation.cache_index import tokenizer_hash


@pytest.fixture
def write(tmp_path, tiny_tokenizer):
    return cache_writing(tmp_path, tiny_tokenizer)


class TestDamage:
    """Is noticed before anything is read from it."""

    @pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.999])
    def test_of_a_byte(self, place, write, tmp_path):
        write()
        keys = keys_of(DATASET)
        rows = TeacherCache.open(tmp_path / "cache").rows_of(keys)
        file = tmp_path / "cache" / "teacher-00001.safetensors"
        content = bytearray(file.read_bytes())
        content[int(place * len(content))] ^= 1
        file.write_bytes(content)
        cache = TeacherCache.open(tmp_path / "cache")
        with pytest.raises(ValueError, match=r"teacher-00001.safetensors of the teacher cache is damaged"):
            cache.read(rows, 9)
        with pytest.raises(ValueError, match=r"teacher-00001.safetensors of the teacher cache is damaged"):
            cache.rows_of(keys)
        with pytest.raises(ValueError, match=r"teacher-00001.safetensors of the teacher cache is damaged"):
            write()

    def test_elsewhere_does_not_matter(self, write, tmp_path):
        write()
        file = tmp_path / "cache" / "teacher-00001.safetensors"
        file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
        TeacherCache.open(tmp_path / "cache").read([0], 9)

    def test_is_not_looked_for_if_not_wanted(self, write, tmp_path):
        write()
        file = tmp_path / "cache" / "teacher-00000.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        TeacherCache.open(tmp_path / "cache", verify=False).read([0], 9)

    @pytest.mark.parametrize("verify", [True, False])
    def test_of_a_file_cut_off_or_lost(self, verify, write, tmp_path):
        write()
        file = tmp_path / "cache" / "teacher-00001.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(ValueError, match=r"teacher-00001.safetensors .* \(it has \d+ bytes, but \d+ were written"):
            TeacherCache.open(tmp_path / "cache", verify=verify)
        file.unlink()
        with pytest.raises(ValueError, match=r"teacher-00001.safetensors .* \(it is missing\)"):
            TeacherCache.open(tmp_path / "cache", verify=verify)

    def test_is_made_good_by_writing_again(self, write, tmp_path, warnings_of_the_library):
        write()
        before = files_of(tmp_path / "cache")
        (tmp_path / "cache" / "teacher-00001.safetensors").unlink()
        assert 0 < write().asked_rows < len(DATASET)
        after = files_of(tmp_path / "cache")
        assert {**after, "index.json": b""} == {**before, "index.json": b""}
        assert any("has lost teacher-00001.safetensors" in warning for warning in warnings_of_the_library())

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 1, "provenance": {}, "shards": []}'])
    def test_of_the_index(self, content, write, tmp_path):
        write()
        (tmp_path / "cache" / "index.json").write_text(content)
        with pytest.raises(ValueError, match=r"index.json is not the index of a teacher cache"):
            TeacherCache.open(tmp_path / "cache")

    def test_is_not_a_newer_format(self, write, tmp_path):
        write()
        index = tmp_path / "cache" / "index.json"
        index.write_text(json.dumps(json.loads(index.read_text()) | {"format_version": 2}))
        with pytest.raises(ValueError, match=r"format version of .* is 2, but this program reads 1"):
            TeacherCache.open(tmp_path / "cache")

    def test_is_not_a_folder_without_a_cache(self, tmp_path):
        with pytest.raises(ValueError, match=r"has no index\.json"):
            TeacherCache.open(tmp_path)


class TestTokenizerHash:
    """Is that of what a tokenizer does, however it was used."""

    def test_does_not_change_with_use(self, tiny_tokenizer):
        before = tokenizer_hash(tiny_tokenizer)
        tiny_tokenizer(["a", "long text"], padding="max_length", truncation=True, max_length=5)
        state = json.loads(tiny_tokenizer.backend_tokenizer.to_str())
        assert state["padding"], "the call left no trace"
        assert state["truncation"]
        assert tokenizer_hash(tiny_tokenizer) == before

    def test_does_not_change_on_disk(self, tiny_tokenizer, tmp_path):
        tiny_tokenizer.save_pretrained(tmp_path)
        loaded = AutoTokenizer.from_pretrained(tmp_path)
        assert tokenizer_hash(loaded) == tokenizer_hash(tiny_tokenizer)

    def test_changes_with_words_roles_and_rules(self, tmp_path):
        def load():
            return AutoTokenizer.from_pretrained(save_word_tokenizer(tmp_path / "words", ["<unk>", "a", "b"]))

        added, special, lowered = load(), load(), load()
        added.add_tokens(["c"])
        special.add_special_tokens({"pad_token": "c"})
        lowered.backend_tokenizer.normalizer = Lowercase()
        swapped = AutoTokenizer.from_pretrained(save_word_tokenizer(tmp_path / "other", ["<unk>", "b", "a"]))
        assert len({tokenizer_hash(each) for each in (load(), load(), added, special, lowered, swapped)}) == 5

    def test_of_a_tokenizer_in_python(self, tmp_path):
        tokenizer = ByT5Tokenizer()
        before = tokenizer_hash(tokenizer)
        tokenizer(["a", "long text"], padding="max_length", truncation=True, max_length=5)
        tokenizer.save_pretrained(tmp_path)
        assert not tokenizer.is_fast
        assert tokenizer_hash(tokenizer) == tokenizer_hash(ByT5Tokenizer.from_pretrained(tmp_path)) == before
        tokenizer.add_tokens(["c"])
        assert tokenizer_hash(tokenizer) not in {before, tokenizer_hash(ByT5Tokenizer(extra_ids=3))}
