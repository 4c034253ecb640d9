"""Caption files: both formats, and what is wrong with a wrong one."""

import json
from pathlib import Path

import pytest

from tadp_d2.data.texts import Caption, find_caption_file, read_captions, write_captions
from tadp_d2.errors import UserError

HEADER = '{"format": "tadp_d2 captions", "version": 1, "dataset": "d", "made_by": {}}\n'
PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "tadp_captions"


def test_what_is_written_is_read(tmp_path):
    captions = {"2": "ein Hund — und 'zwei' Vögel", "1": ""}
    write_captions(tmp_path / "d.jsonl", "d", captions, {"model": "m", "revision": "r"})
    read = read_captions(tmp_path / "d.jsonl")
    assert dict(read.captions) == captions
    assert read.made_by == {"model": "m", "revision": "r"}
    assert len(read.fingerprint()) == 64


def test_a_cleaned_text_is_preferred_to_the_raw_one(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(HEADER + '{"image_id": "1", "raw": "a painting of a dog", "clean": "a dog"}\n')
    assert read_captions(path)["1"] == "a dog"


def test_a_cleaned_text_may_follow_later_and_the_last_one_counts(tmp_path):
    path = tmp_path / "d.jsonl"
    lines = [
        '{"image_id": "1", "raw": "a painting of a dog", "image_sha256": "ab", "date": "2026"}',
        '{"image_id": "2", "raw": "a cat"}',
        '{"image_id": "1", "clean": "a painting", "cleaned_by": {"method": "rules"}}',
        '{"image_id": "1", "clean": "a dog", "cleaned_by": {"method": "llm"}}',
    ]
    path.write_text(HEADER + "\n".join(lines) + "\n")
    assert read_captions(path).captions == {"1": "a dog", "2": "a cat"}
    assert read_captions(path, "raw").captions == {"1": "a painting of a dog", "2": "a cat"}
    expected = Caption("a painting of a dog", "a dog", {"method": "llm"}, "ab", "2026")
    assert read_captions(path).records["1"] == expected


def test_a_line_that_a_crash_cut_off_does_not_count(tmp_path):
    path = tmp_path / "d.jsonl"
    first = (HEADER + '{"image_id": "1", "raw": "a dog"}\n').encode()
    second = '{"image_id": "2", "raw": "a dög"}'.encode()
    for end in range(len(second)):
        path.write_bytes(first + second[:end])
        assert read_captions(path).captions == {"1": "a dog"}
    # An editor may leave out the last line's end.
    path.write_bytes(first + second)
    assert read_captions(path).captions == {"1": "a dog", "2": "a dög"}


def test_a_byte_order_mark_is_no_text(tmp_path):
    for name, text in (
        ("d.jsonl", HEADER + '{"image_id": "1", "raw": "a dog"}\n'),
        ("d.json", '{"1": {"captions": ["a dog"]}}'),
    ):
        (tmp_path / name).write_text(text, "utf-8-sig")
        assert read_captions(tmp_path / name).captions == {"1": "a dog"}


def test_the_published_format(tmp_path):
    path = tmp_path / "d.json"
    path.write_text('{"1": {"captions": ["a dog", "a cat"], "class_label": 3}}')
    assert read_captions(path)["1"] == "a dog"


@pytest.mark.parametrize("name, count", [("watercolor", 1000), ("nighttime_driving", 50)])
def test_published_files_are_read(name, count):
    path = PUBLISHED / f"{name}_captions.json"
    if not path.is_file():
        pytest.skip("the files published with TADP are not here")
    captions = read_captions(path).captions
    assert len(captions) == count
    assert captions == {k: v["captions"][0] for k, v in json.loads(path.read_text()).items()}


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("d.jsonl", "", ":1: expected the header"),
        ("d.jsonl", '{"image_id": "1", "raw": "a"}\n', ":1: expected the header"),
        ("d.jsonl", HEADER + "{not json\n", ":2: not JSON"),
        ("d.jsonl", HEADER + "[]\n", ":2: expected a JSON object"),
        ("d.jsonl", HEADER + '{"image_id": 1, "raw": "a"}\n', ":2: expected"),
        ("d.jsonl", HEADER + '{"image_id": "1"}\n', ":2: expected"),
        ("d.jsonl", HEADER + '{"image_id": "1", "raw": "a"}\n' * 2, ":3: image '1' has a caption"),
        ("d.jsonl", HEADER + '{"image_id": "1", "raw": 2}\n', ":2: expected"),
        (
            "d.jsonl",
            HEADER + '{"image_id": "1", "clean": "a"}\n',
            ":2: a cleaned text for image '1'",
        ),
        ("d.json", "[]", "expected a JSON object"),
        ("d.json", '{"1": {"captions": []}}', "image '1': expected"),
        ("d.json", '{"1": {"captions": "a dog"}}', "image '1': expected"),
    ],
)
def test_a_malformed_file_is_an_error_that_says_where(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        read_captions(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert message in str(error.value)


def test_a_missing_caption_names_image_and_file(tmp_path):
    write_captions(tmp_path / "d.jsonl", "d", {"1": "a dog"}, {})
    with pytest.raises(UserError, match=r"d\.jsonl: no caption for image '2'"):
        read_captions(tmp_path / "d.jsonl")["2"]


def test_finding_the_file_of_a_data_set(tmp_path):
    with pytest.raises(UserError, match="no captions for data set 'd'"):
        find_caption_file(tmp_path, "d")
    (tmp_path / "d.json").write_text("{}")
    assert find_caption_file(tmp_path, "d") == tmp_path / "d.json"
    (tmp_path / "d.jsonl").write_text("")
    with pytest.raises(UserError, match="both exist"):
        find_caption_file(tmp_path, "d")


def test_a_leading_slash_of_a_published_id_is_dropped(tmp_path):
    path = tmp_path / "nyu_depth_v2_test.json"
    path.write_text('{"/bathroom/rgb_00045.jpg": {"captions": ["a bathroom"]}}')
    assert read_captions(path)["bathroom/rgb_00045.jpg"] == "a bathroom"
