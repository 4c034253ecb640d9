"""Tokenizers: what makes two equal, and whether one goes with a text encoder."""

import json
import shutil
import sys
import types

import pytest
import torch
from transformers import AddedToken, CLIPTextModel, CLIPTokenizer

from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.clip_tokenizer import (
    find_normalization,
    load_tokenizer,
    tokenizer_fingerprint,
)
from tadp_d2.errors import UserError
from tadp_d2.personalization.model import TrainableDiffusion

SPECIAL = {"<|startoftext|>": "bos", "<|endoftext|>": "eos"}


@pytest.fixture
def model(model_folder, tmp_path):
    """A copy of the tiny model."""
    return shutil.copytree(model_folder, tmp_path / "model")


def change(folder, **options):
    path = folder / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def lines_of_merges(folder, edit):
    path = folder / "tokenizer" / "merges.txt"
    path.write_text("".join(f"{line}\n" for line in edit(path.read_text().splitlines())))


def in_newer_format(model):
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    shutil.rmtree(model / "tokenizer")
    tokenizer.save_pretrained(model / "tokenizer")
    assert not (model / "tokenizer" / "merges.txt").exists()


def in_older_style(model):
    """As in the folders of Stable Diffusion 1.5."""
    tokens = {
        f"{kind}_token": {"content": token, "lstrip": False, "normalized": True, "rstrip": False}
        for token, kind in SPECIAL.items()
    }
    (model / "tokenizer" / "special_tokens_map.json").write_text(json.dumps(tokens))
    typed = {name: {"__type": "AddedToken", **token} for name, token in tokens.items()}
    change(model, **typed, do_lower_case=True, errors="replace", add_prefix_space=False)


def with_other_ends_of_lines(model):
    path = model / "tokenizer" / "merges.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


@pytest.mark.parametrize(
    "rewrite",
    [
        in_newer_format,
        in_older_style,
        with_other_ends_of_lines,
        lambda model: (model / "tokenizer" / "tokenizer_config.json").unlink(),
    ],
)
def test_the_same_tokenizer_in_other_files_has_the_same_fingerprint(model_folder, model, rewrite):
    rewrite(model)
    text = TextEncoder.from_pretrained(model)
    expected = tokenizer_fingerprint(load_tokenizer(model_folder))
    assert text.tokenizer_fingerprint == expected
    assert tokenizer_fingerprint(text.tokenizer) == expected


def swap_merges(model):
    def swapped(lines):
        lines[3], lines[9] = lines[9], lines[3]
        return lines

    lines_of_merges(model, swapped)


def rename_a_piece(model):
    path = model / "tokenizer" / "vocab.json"
    vocabulary = json.loads(path.read_text())
    vocabulary["!"], vocabulary["#"] = vocabulary["#"], vocabulary["!"]
    path.write_text(json.dumps(vocabulary))


def add(*tokens):
    def added(model):
        tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
        tokenizer.add_tokens(list(tokens))
        tokenizer.save_pretrained(model / "tokenizer")
        encoder = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32)
        encoder.resize_token_embeddings(len(tokenizer))
        encoder.save_pretrained(model / "text_encoder")

    return added


def test_what_changes_tokens_changes_the_fingerprint(model_folder, tmp_path):
    changes = (
        lambda model: None,
        lambda model: change(model, pad_token="!"),
        swap_merges,
        rename_a_piece,
        add("<water>"),
        add("<wine>"),
        add(AddedToken("<water>", single_word=True)),
    )
    found = []
    for number, make in enumerate(changes):
        model = shutil.copytree(model_folder, tmp_path / str(number))
        make(model)
        found.append(TextEncoder.from_pretrained(model).tokenizer_fingerprint)
    assert len(set(found)) == len(changes)


@pytest.mark.parametrize("left", [0, 1, 100])
def test_merges_that_are_cut_off_are_refused(model, left):
    lines_of_merges(model, lambda lines: lines[:left])
    with pytest.raises(UserError, match=r"tokenizer: its merges make \d+ of the \d+ pieces .*cut"):
        load_tokenizer(model)


def test_a_token_that_the_text_encoder_lacks_is_named(model):
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    tokenizer.add_tokens(["<watercolor>"])
    tokenizer.save_pretrained(model / "tokenizer")
    message = "do not belong together: the tokenizer knows '<watercolor>' .*no embedding"
    for load in (TextEncoder.from_pretrained, lambda folder: TrainableDiffusion.load(str(folder))):
        with pytest.raises(UserError, match=message):
            load(model)


def test_both_halves_of_a_token_and_padded_embeddings_go_together(model):
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    tokenizer.add_tokens(["<watercolor>"])
    tokenizer.save_pretrained(model / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32)
    encoder.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    encoder.save_pretrained(model / "text_encoder")
    TextEncoder.from_pretrained(model)
    encoder.resize_token_embeddings(len(tokenizer) + 128)
    encoder.save_pretrained(model / "text_encoder")
    with pytest.raises(UserError, match=r"the tokenizer reaches \d+ of \d+ embeddings"):
        TextEncoder.from_pretrained(model)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tokenizer_class": "T5Tokenizer"}, "is of a T5Tokenizer; expected the CLIPTokenizer"),
        ({"model_max_length": 512}, r"is for 512 tokens \(model_max_length\).* reads 77"),
        ({"pad_token": None}, "has no token to pad with"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(model, options, message):
    change(model, **options)
    with pytest.raises(UserError, match=message):
        TextEncoder.from_pretrained(model)


def test_a_tokenizer_that_states_no_length_is_taken(model):
    (model / "tokenizer" / "tokenizer_config.json").unlink()
    assert TextEncoder.from_pretrained(model).length == 77


FANCY = "“It’s &amp;lt;ﬁne&amp;gt;” ｄｏｇ"


def test_openais_normalization(monkeypatch):
    """ftfy first, then HTML entities, twice; ftfy's own part is played by a table here."""
    table = {"“": '"', "”": '"', "’": "'", "ﬁ": "fi"} | {chr(0xFEE0 + ord(c)): c for c in "dog"}

    def fix_text(text):
        return text.translate({ord(old): new for old, new in table.items()})

    fake = types.SimpleNamespace(fix_text=fix_text, __version__="6.3")
    monkeypatch.setitem(sys.modules, "ftfy", fake)
    normalize, name = find_normalization("openai")
    assert normalize(f" {FANCY}\n") == '"It\'s <fine>" dog' and name == "openai (ftfy 6.3)"
    normalize, name = find_normalization("none")
    assert normalize(FANCY) == FANCY and name == "none"


def test_ftfy_does_what_is_expected_of_it():
    pytest.importorskip("ftfy", reason="an optional package")
    assert find_normalization("openai")[0](FANCY) == '"It\'s <fine>" dog'


def test_without_ftfy_its_option_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(UserError, match="TEXT.NORMALIZATION openai needs .*pip install ftfy"):
        find_normalization("openai")
