"""Learned tokens: read here as diffusers reads them."""

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline

from tadp_d2.conditioning.caption_prompt import check_modifier, make_prompt
from tadp_d2.conditioning.domains import get_modifier
from tadp_d2.diffusion.clip_text import TextEncoder
from tadp_d2.diffusion.tokens import ONLY, expand_tokens, read_tokens
from tadp_d2.errors import UserError

from ..tiny_model import TEXT_WIDTH


def vectors(n, width=TEXT_WIDTH):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(n))


def write(path, tensors):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("n", [1, 3])
def test_same_prompt_embedding_as_in_diffusers(model_folder, tmp_path, suffix, n):
    learned = vectors(n) if n > 1 else vectors(1)[0]
    file = write(tmp_path / f"learned_embeds{suffix}", {"<watercolor>": learned})
    pipeline = StableDiffusionPipeline.from_pretrained(model_folder)
    pipeline.load_textual_inversion(str(file))
    prompt = "a <watercolor> style painting of a dog"
    expected, _ = pipeline.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)

    text = TextEncoder.from_pretrained(model_folder, [file])
    ours = text([make_prompt("a dog", get_modifier("watercolor", "ti"), text)]).embeddings
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_no_other_row_of_the_embedding_changes(model_folder, tmp_path):
    file = write(tmp_path / "learned_embeds.safetensors", {"<new>": vectors(2)})
    before = TextEncoder.from_pretrained(model_folder)
    after = TextEncoder.from_pretrained(model_folder, [file])

    def rows(text):
        return text.text_encoder.module.get_input_embeddings().weight

    assert torch.equal(rows(after)[: len(rows(before))], rows(before))
    assert torch.equal(rows(after)[len(rows(before)) :], vectors(2))
    assert before.base_fingerprint == after.base_fingerprint
    assert set(after.token_fingerprints) == {"<new>"}


def test_a_token_that_exists_already_is_an_error(model_folder, tmp_path):
    file = write(tmp_path / "learned_embeds.safetensors", {"dog</w>": vectors(1)})
    with pytest.raises(UserError, match="'dog</w>' exists already"):
        TextEncoder.from_pretrained(model_folder, [file])
    twice = write(tmp_path / "twice.safetensors", {"<a>": vectors(1)})
    with pytest.raises(UserError, match="'<a>' exists already"):
        TextEncoder.from_pretrained(model_folder, [twice, twice])


@pytest.mark.parametrize(
    "first, second, known", [("<Night>", "<night>", "<Night>"), ("<a>_1", "<A>", "<a>_1")]
)
def test_a_token_that_is_read_as_another_is_an_error(model_folder, tmp_path, first, second, known):
    """The tokenizer reads all in lower case: of two such tokens one would never be read."""
    files = [
        write(tmp_path / f"{number}.safetensors", {token: vectors(number + 1)})
        for number, token in enumerate((first, second))
    ]
    with pytest.raises(UserError, match=f"exists already in the tokenizer, as '{known}': rename"):
        TextEncoder.from_pretrained(model_folder, files)


def test_a_token_that_is_read_as_a_word_of_the_vocabulary_is_an_error(model_folder, tmp_path):
    file = write(tmp_path / "learned_embeds.safetensors", {"Dog": vectors(1)})
    with pytest.raises(UserError, match="'Dog' exists already in the tokenizer, as 'dog'"):
        TextEncoder.from_pretrained(model_folder, [file])


def test_a_token_without_brackets_is_not_found_inside_of_words(model_folder, tmp_path):
    before = TextEncoder.from_pretrained(model_folder).tokenizer
    file = write(tmp_path / "learned_embeds.safetensors", {"Ink": vectors(2)})
    after = TextEncoder.from_pretrained(model_folder, [file]).tokenizer
    for text in ("a drink in a sink", "inky, smart_ink", "an ink_2 thing"):
        assert after(text).input_ids == before(text).input_ids
    first, second = after.convert_tokens_to_ids(["Ink", "Ink_1"])
    for text in ("an ink thing", "an INK, of course", "ink"):
        assert after(text).input_ids.count(first) == 1
        expanded = after(expand_tokens(text, after)).input_ids
        place = expanded.index(first)
        assert expanded[place : place + 2] == [first, second] and expanded.count(second) == 1
    for text in ("a sink", "Ink_1 alone"):
        assert expand_tokens(text, after) == text


def test_tokens_are_written_out_in_whatever_case_they_are_found(model_folder, tmp_path):
    file = write(tmp_path / "learned_embeds.safetensors", {"<Night>": vectors(3)})
    tokenizer = TextEncoder.from_pretrained(model_folder, [file]).tokenizer
    whole = "<Night> <Night>_1 <Night>_2"
    for text in ("a <night> b <NIGHT>s", "a <Night> b <Night>s"):
        assert expand_tokens(text, tokenizer) == f"a {whole} b {whole}s"
    assert expand_tokens(f"a {whole} b", tokenizer) == f"a {whole} b"


def test_a_token_of_another_width_is_an_error(model_folder, tmp_path):
    file = write(tmp_path / "learned_embeds.safetensors", {"<a>": vectors(1, width=768)})
    message = f"safetensors: token '<a>' has vectors of width 768, .*reads width {TEXT_WIDTH}"
    with pytest.raises(UserError, match=message):
        TextEncoder.from_pretrained(model_folder, [file])


def test_a_modifier_whose_token_was_not_learned_is_an_error(model_folder):
    text = TextEncoder.from_pretrained(model_folder)
    with pytest.raises(UserError, match="<watercolor>, which the text encoder does not know"):
        check_modifier(get_modifier("watercolor", "ti"), text)


def old_parameters(vectors):
    """As torch before 1.12 pickled them, without a list of keys."""
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors)})
    del parameters._keys
    return parameters


@pytest.mark.parametrize(
    "suffix, content",
    [
        (".safetensors", lambda v: {"emb_params": v}),
        (".pt", lambda v: {"string_to_token": {"*": 265}, "string_to_param": {"*": v}, "step": 9}),
        (".pt", lambda v: {"string_to_param": old_parameters(v), "name": "of the trainer"}),
        (".bin", lambda v: v),
    ],
)
def test_files_of_other_trainers_are_read_under_the_name_of_the_file(
    model_folder, tmp_path, suffix, content
):
    file = write(tmp_path / f"<v1.5 night>{suffix}", content(vectors(2)))
    with pytest.raises(UserError, match="'<v1.5 night>' is no token"):
        read_tokens(file)
    file = file.rename(tmp_path / f"<night>{suffix}")
    assert torch.equal(read_tokens(file)["<night>"][ONLY], vectors(2))
    own = write(tmp_path / "own.safetensors", {"<night>": vectors(2)})
    first, second = (TextEncoder.from_pretrained(model_folder, [f]) for f in (file, own))
    prompts = [expand_tokens("a <night> street", first.tokenizer)]
    assert torch.equal(first(prompts).embeddings, second(prompts).embeddings)


def test_tokens_of_other_text_encoders_and_of_several_names_are_refused(model_folder, tmp_path):
    pair = {"clip_l": vectors(1), "clip_g": vectors(1, width=80)}
    file = write(tmp_path / "xl.safetensors", pair)
    message = (
        rf"xl.safetensors: .* width {TEXT_WIDTH} \(clip_l\) and width 80 \(clip_g\), "
        rf".* reads width {TEXT_WIDTH}:"
    )
    with pytest.raises(UserError, match=message):
        TextEncoder.from_pretrained(model_folder, [file])
    for other, message in (
        ({"clip_g": vectors(2)}, "holds 1 and 2 vectors in clip_l and clip_g"),
        ({"t5xxl": vectors(1)}, "holds clip_l and clip_g and t5xxl; expected clip_l and clip_g of"),
    ):
        with pytest.raises(UserError, match=message):
            read_tokens(write(tmp_path / "other.bin", pair | other))
    with pytest.raises(UserError, match="holds clip_g; expected clip_l and clip_g of"):
        read_tokens(write(tmp_path / "half.bin", {"clip_g": vectors(1)}))
    file = write(tmp_path / "two.bin", {"string_to_param": {"*": vectors(1), "+": vectors(1)}})
    with pytest.raises(UserError, match="expected the vectors of one token in 'string_to_param'"):
        read_tokens(file)


class _Payload:
    def __reduce__(self):
        return print, ("executed",)


def test_wrong_files_are_errors_and_pickles_are_not_executed(tmp_path, capsys):
    with pytest.raises(UserError, match="no learned token at"):
        read_tokens(tmp_path / "absent.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"\0" * 30)
    with pytest.raises(UserError, match="damaged.safetensors: cannot be read"):
        read_tokens(tmp_path / "damaged.safetensors")
    torch.save({"<a>": _Payload()}, tmp_path / "attack.bin")
    with pytest.raises(UserError, match="attack.bin: cannot be read"):
        read_tokens(tmp_path / "attack.bin")
    assert "executed" not in capsys.readouterr().out
    torch.save({"string_to_param": _Payload()}, tmp_path / "attack.pt")
    with pytest.raises(UserError, match="attack.pt: cannot be read"):
        read_tokens(tmp_path / "attack.pt")
    assert "executed" not in capsys.readouterr().out
    torch.save({"step": 3}, tmp_path / "other.bin")
    with pytest.raises(UserError, match="expected a mapping from tokens to vectors"):
        read_tokens(tmp_path / "other.bin")
