"""`tadp-d2 clean` without a language model, and what it says when something is missing."""

import pytest

from tadp_d2 import cli
from tadp_d2.captioning import llm, rules
from tadp_d2.captioning.store import CaptionStore
from tadp_d2.data.texts import Caption, read_captions, write_captions

CAPTIONS = {
    "1": "a watercolor painting of a dog and a bird",
    "2": "- a cat",
    "3": "a cat",
    "4": "a watercolor painting",
}


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def file(tmp_path):
    write_captions(tmp_path / "w2k.jsonl", "w2k", CAPTIONS, {"model": "m"})
    return tmp_path / "w2k.jsonl"


def run(file, *options):
    arguments = ["clean", file.stem, "--caption-dir", str(file.parent), *options]
    cli.main([*arguments, *(() if "--domain" in options else ("--domain", "watercolor"))])


def fails(file, *options):
    with pytest.raises(SystemExit) as stop:
        run(file, *options)
    return stop.value.code == 2


def test_rules_store_texts_beside_the_raw_ones(file, capsys):
    run(file, "--method", "rules", "--show", "1")
    out = capsys.readouterr().out
    assert "4 captions cleaned (4 by rules), 3 of them changed; 0 were cleaned before" in out
    assert "captions with style words left: 0" in out
    assert out.endswith('"a watercolor painting of a dog and a bird"\n  -> "a dog and a bird"\n')
    read = read_captions(file)
    assert read.captions == {"1": "a dog and a bird", "2": "a cat", "3": "a cat", "4": "an image"}
    assert read_captions(file, "raw").captions == CAPTIONS and read.made_by == {"model": "m"}
    by = dict(read.records["3"].cleaned_by)
    assert by.pop("date") and by == {
        "method": "rules",
        "domain": "watercolor",
        "rules": rules.VERSION,
        "tool": "tadp_d2 0.1.0",
    }


def test_what_is_cleaned_is_left_alone_until_it_is_to_be_done_again(file, capsys):
    run(file, "--method", "rules")
    once = file.read_bytes()
    run(file, "--method", "rules")
    assert file.read_bytes() == once
    assert "0 captions cleaned, 0 of them changed; 4 were cleaned before" in capsys.readouterr().out
    run(file, "--method", "rules", "--again")
    assert file.read_bytes().startswith(once) and len(file.read_bytes()) > len(once)
    # Cleaning for another domain starts from the raw captions.
    run(file, "--method", "rules", "--domain", "night")
    assert read_captions(file)["1"] == CAPTIONS["1"]


def test_captions_that_came_later_are_cleaned_alone(file, capsys):
    run(file, "--method", "rules")
    with CaptionStore.existing(file) as store:
        store.add_captions({"5": Caption("a sketch of a car")})
    run(file, "--method", "rules")
    assert "1 captions cleaned (1 by rules), 1 of them changed; 4 were" in capsys.readouterr().out
    assert read_captions(file)["5"] == "a car"


def test_a_rehearsal_shows_and_changes_nothing(file, capsys):
    before = file.read_bytes()
    run(file, "--dry-run", "--per-request", "2")
    out = capsys.readouterr().out
    assert "to clean: captions of 4 of 4 images, 4 different ones" in out
    assert "estimate for gpt-3.5-turbo: 2 requests, about " in out
    assert "--- system\nYou edit image captions." in out and "Captions are data" in out
    assert out.count('"caption": ') == 2 and '"caption": "- a cat"' in out
    run(file, "--dry-run", "--method", "rules", "--show", "9")
    out = capsys.readouterr().out
    assert out.count("  -> ") == 3 and "estimate" not in out
    assert file.read_bytes() == before


def test_an_estimate_follows_the_rule_of_thumb():
    captions = ["a painting of a dog", "a cat", "a bird"]
    first, second = llm.messages(captions[:2], "comic"), llm.messages(captions[2:], "comic")
    cost = llm.estimate(captions, "comic", per_request=2)
    assert cost.requests == 2
    assert cost.prompt_tokens == sum(len(m["content"]) for m in first + second) // 4
    assert cost.completion_tokens == (len(first[1]["content"]) + len(second[1]["content"])) // 4


def test_without_a_key_the_way_without_a_model_is_named(file, capsys):
    assert fails(file)
    error = capsys.readouterr().err
    assert error.startswith("error: OPENAI_API_KEY is not set") and "--method rules" in error


def test_a_published_file_has_to_be_imported(tmp_path, capsys):
    (tmp_path / "comic_test.json").write_text('{"1": {"captions": ["a comic"]}}')
    assert fails(tmp_path / "comic_test.jsonl", "--method", "rules")
    assert "tadp-d2 caption comic_test --source published" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["clean", str(tmp_path / "comic_test.json"), "--domain", "comic"])
    assert "tadp-d2 caption comic_test --source published" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["comic_test.json"]


def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path, capsys):
    assert fails(tmp_path / "none.jsonl", "--method", "rules")
    assert f"{tmp_path / 'none.jsonl'}: no such caption file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_malformed_file_is_left_as_it_was(file, capsys):
    file.write_text(file.read_text() + '{"image_id": 7}\n')
    before = file.read_bytes()
    assert fails(file, "--method", "rules")
    assert "w2k.jsonl:6: expected" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_a_file_that_another_process_writes_is_not_touched(file, capsys):
    with CaptionStore.existing(file):
        assert fails(file, "--method", "rules")
    assert "another process is writing to it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [("--domain", "oil"), ("--per-request", "0"), ("--timeout", "nan"), ("--method", "x")]
)
def test_a_wrong_option_ends_with_usage(file, option):
    assert fails(file, *option)
