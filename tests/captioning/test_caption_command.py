"""`tadp-d2 caption` and `tadp-d2 captions merge`: nothing lost, nothing twice, nothing mixed."""

import hashlib
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tadp_d2.captioning.blip2 import Captioner
from tadp_d2.captioning.caption import caption_images
from tadp_d2.captioning.sets import find_images
from tadp_d2.captioning.shards import Shard
from tadp_d2.captioning.sources import Source, fixed_text
from tadp_d2.captioning.store import CaptionStore
from tadp_d2.cli import main
from tadp_d2.commands.caption import OPTIONS
from tadp_d2.data.images import read_rgb
from tadp_d2.data.texts import complete_lines, find_caption_file, read_captions
from tadp_d2.synthetic.tiny_captioner import write_tiny_captioner


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioner") / "tiny"
    write_tiny_captioner(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """A folder of ten pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(10):
        array = (rng.random((12, 20 + i, 3)) * 25 * i).astype(np.uint8)
        Image.fromarray(array).save(folder / f"{i}.png")
    return folder


def _run(*arguments):
    main([str(argument) for argument in arguments])


def _fails(capsys, *arguments):
    """The message of a command that must end with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        _run(*arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def _rows(path):
    return path.read_text().splitlines()[1:]


def test_a_data_set_is_captioned_as_the_model_says(world, model, tmp_path, capsys):
    arguments = ("--model", model, "--caption-dir", tmp_path, "--batch-size", 4, "--device", "cpu")
    _run("caption", "watercolor_test", *arguments)
    assert "6 captions made, 0 were there" in capsys.readouterr().out
    file = read_captions(find_caption_file(tmp_path, "watercolor_test"))
    captioner = Captioner.from_pretrained(str(model), device="cpu")
    images = find_images("watercolor_test")
    for image in images:
        data = image.path.read_bytes()
        record = file.records[image.image_id]
        assert record.raw == captioner.captions([read_rgb(image.path)[0]])[0]
        assert record.image_sha256 == hashlib.sha256(data).hexdigest()
        assert record.date.startswith("20")
    assert list(file.records) == [image.image_id for image in images]
    settings = {"source": "blip2", "dtype": "fp32", "min_new_tokens": 0, "max_new_tokens": 77}
    assert settings.items() <= file.made_by.items()
    assert file.made_by["revision"].startswith("sha256:")
    before = file.path.read_bytes()
    _run("caption", "watercolor_test", *arguments)
    assert "0 captions made, 6 were there" in capsys.readouterr().out
    message = _fails(capsys, "caption", "watercolor_test", *arguments, "--min-new-tokens", 20)
    assert "made with min_new_tokens 0, these would be with 20" in message
    assert file.path.read_bytes() == before


def test_a_captioner_sees_all_bits_and_what_is_transparent_on_white(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(np.full((2, 3), 100 * 257, np.uint16)).save(folder / "16-bit.png")
    Image.new("RGBA", (3, 2), (9, 9, 9, 0)).save(folder / "clear.png")
    seen = {}

    def texts(images, pictures):
        for image, picture in zip(images, pictures, strict=True):
            seen[image.image_id] = picture.getcolors()
        return [""] * len(images)

    source = Source(fixed_text("").made_by, texts, needs_pictures=True)
    caption_images(find_images(str(folder)), source, tmp_path / "d.jsonl", "d")
    assert seen == {"16-bit.png": [(6, (100,) * 3)], "clear.png": [(6, (255,) * 3)]}


def test_pictures_that_are_new_get_their_captions(pictures, tmp_path, capsys):
    command = ("caption", pictures, "--source", "text", "--text", "a picture")
    _run(*command)
    path = tmp_path / "pictures.jsonl"
    first = path.read_bytes()
    Image.new("RGB", (9, 9)).save(pictures / "new.png")
    _run(*command)
    assert "1 captions made, 10 were there" in capsys.readouterr().out
    assert path.read_bytes().startswith(first)
    assert len(_rows(path)) == 11
    assert set(read_captions(path).captions.values()) == {"a picture"}


def test_a_killed_run_is_continued(pictures, tmp_path):
    """Killed after any caption, again and again, it ends with every caption once."""
    path = tmp_path / "out.jsonl"
    code = (
        "import sys; from pathlib import Path\n"
        "from tadp_d2.captioning.caption import caption_images\n"
        "from tadp_d2.captioning.sets import find_images\n"
        "from tadp_d2.captioning.sources import Source\n"
        "source = Source({'v': 1, 'tool': 't', 'source': 's'},\n"
        "    lambda images, _: [f'caption of {i.image_id}' for i in images], True)\n"
        "caption_images(find_images(sys.argv[1]), source, Path(sys.argv[2]), 'pictures', 2,\n"
        "    progress=lambda *counts: (print(*counts, flush=True), sys.stdin.readline()))\n"
    )
    totals, on_disk = [], []
    for stop_after in (1, 4, 2, None):
        command = [sys.executable, "-c", code, str(pictures), str(path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes) as process:
            # It reports a caption, and waits for a line before it goes on.
            reports = []
            for report in process.stdout:
                reports.append(report)
                if len(reports) == stop_after:
                    os.kill(process.pid, signal.SIGKILL)
                    break
                process.stdin.write("\n")
                process.stdin.flush()
        totals.append(int(reports[0].split()[1]))
        on_disk.append(len(complete_lines(path.read_bytes()).splitlines()) - 1)
    # Batches of two: what was reported is on disk, with its batch.
    assert on_disk == [2, 6, 8, 10]
    assert totals == [10, 8, 4, 2]
    captions = read_captions(path).captions
    assert captions == {f"{i}.png": f"caption of {i}.png" for i in range(10)}
    assert len(_rows(path)) == 10


def test_a_picture_that_cannot_be_read_is_named(pictures, model, tmp_path, capsys):
    (pictures / "5.png").write_bytes(b"not a picture")
    (pictures / "7.png").write_bytes((pictures / "8.png").read_bytes()[:60])
    command = ("caption", pictures, "--model", model, "--batch-size", 2, "--device", "cpu")
    message = _fails(capsys, *command)
    assert "5.png: cannot be read as an image" in message and "--skip-unreadable" in message
    path = tmp_path / "pictures.jsonl"
    assert list(read_captions(path).records) == [f"{i}.png" for i in range(4)]
    _run(*command, "--skip-unreadable")
    out = capsys.readouterr().out
    assert "4 captions made, 4 were there" in out and "2 images could not be read" in out
    assert "\n  5.png: " in out and "\n  7.png: " in out
    assert "5.png" not in read_captions(path).records
    Image.new("RGB", (9, 9)).save(pictures / "5.png")
    Image.new("RGB", (9, 9)).save(pictures / "7.png")
    _run(*command)
    assert len(read_captions(path).records) == 10


def test_settings_that_do_not_work_leave_no_file(pictures, model, tmp_path, capsys):
    for arguments, message in (
        (("--model", "no/where"), "no captioning model 'no/where'"),
        (("--model", model, "--device", "tpu9"), "--device tpu9: cannot be used"),
        (("--model", model, "--batch-size", 0), "--batch-size 0: expected 1 or more"),
        (("--source", "oracle"), "belongs to no data set with classes"),
        (("--source", "text"), "--source text needs --text"),
        (("--source", "nouns"), "--source nouns needs --from"),
        (("--source", "text", "--text", "a", "--shard", "3/2"), "--shard 3/2: expected"),
        (("--source", "text", "--text", "a", "--shard", "9/11"), "there are 10 images"),
        (("--source", "published", "--from", "none.json"), "none.json: there is no such"),
    ):
        assert message in _fails(capsys, "caption", pictures, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.parametrize("source", OPTIONS)
def test_options_of_other_sources_are_errors(source, pictures, capsys):
    values = {"dtype": "bf16", "skip_unreadable": None}
    numbers = ("precision", "recall", "seed", "batch_size", "min_new_tokens", "max_new_tokens")
    numbers += ("top_k", "threshold")
    for name in {name for options in OPTIONS.values() for name in options} - set(OPTIONS[source]):
        value = values.get(name, 1 if name in numbers else "x")
        flag = "--" + name.replace("_", "-")
        message = _fails(
            capsys, "caption", pictures, "--source", source, flag, *([value] if value else [])
        )
        assert f"{flag} belongs to --source " in message


def test_captions_of_another_origin_are_not_continued(world, capsys):
    path = world / "captions" / "comic_test.jsonl"
    before = path.read_bytes()
    message = _fails(capsys, "caption", "comic_test", "--source", "class-names")
    assert "were made by tadp_d2 synthetic world, these would be by tadp_d2 caption" in message
    assert "--caption-dir" in message
    message = _fails(capsys, "caption", "comic_test", "--source", "published", "--from", path)
    assert "is the file that would be written" in message
    assert path.read_bytes() == before
    assert "not a caption file" in _fails(capsys, "caption", path, "--source", "class-names")


def test_an_export_is_taken_back_unchanged(world, tmp_path, capsys):
    _run("captions", "export", "comic_test", tmp_path / "comic_test.json")
    arguments = ("caption", "comic_test", "--source", "published")
    arguments += ("--from", tmp_path / "comic_test.json")
    _run(*arguments, "--caption-dir", tmp_path / "new")
    original = read_captions(world / "captions" / "comic_test.jsonl").captions
    assert read_captions(tmp_path / "new" / "comic_test.jsonl").captions == original
    # Two files of one data set in one folder would be ambiguous later.
    message = _fails(capsys, *arguments, "--caption-dir", tmp_path)
    assert "comic_test.json exists: a data set has one caption file" in message


def test_an_empty_caption_is_kept_and_reported(pictures, tmp_path):
    source = Source(fixed_text("").made_by, lambda images, _: [""] * len(images))
    report = caption_images(find_images(str(pictures)), source, tmp_path / "d.jsonl", "d")
    assert (report.made, len(report.empty)) == (10, 10)
    assert set(read_captions(tmp_path / "d.jsonl").captions.values()) == {""}


@pytest.fixture
def parts(pictures, tmp_path):
    """The captions of three parts, in their files."""
    for index in (1, 2, 3):
        command = ("caption", pictures, "--source", "text", "--text", "a picture")
        _run(*command, "--shard", f"{index}/3")
    return [tmp_path / f"pictures.shard-{index}-of-3.jsonl" for index in (1, 2, 3)]


def test_parts_are_a_split_of_the_sorted_ids(pictures):
    images = find_images(str(pictures))
    shards = [Shard(index, 3).take(images[::-1]) for index in (1, 2, 3)]
    ids = [[image.image_id for image in shard] for shard in shards]
    assert ids[0] == ["0.png", "3.png", "6.png", "9.png"]
    assert sorted(sum(ids, [])) == [image.image_id for image in images]


def test_parts_are_merged_with_all_that_they_say(pictures, parts, tmp_path, capsys):
    with CaptionStore.existing(parts[1]) as store:
        store.add_cleaned({"1.png": ("a thing", {"method": "rules"})})
    before = [part.read_bytes() for part in parts]
    assert "join them with tadp-d2 captions merge" in _fails(capsys, "captions", "show", pictures)
    _run("captions", "merge", pictures)
    assert "10 captions from 3 parts" in capsys.readouterr().out
    merged = read_captions(tmp_path / "pictures.jsonl")
    records = {i: c for part in parts for i, c in read_captions(part).records.items()}
    assert merged.records == records
    assert merged.captions["1.png"] == "a thing"
    assert list(merged.records) == [f"{i}.png" for i in range(10)]
    assert merged.made_by == read_captions(parts[0]).made_by
    assert [part.read_bytes() for part in parts] == before
    # It is a file like any other: a run goes on with it.
    Image.new("RGB", (9, 9)).save(pictures / "new.png")
    _run("caption", pictures, "--source", "text", "--text", "a picture")
    assert len(read_captions(merged.path).records) == 11
    assert "pictures.jsonl exists already" in _fails(capsys, "captions", "merge", pictures)


def _missing_part(parts, pictures):
    parts[1].unlink()


def _gap(parts, pictures):
    Image.new("RGB", (9, 9)).save(pictures / "new.png")


def _stranger(parts, pictures):
    (pictures / "4.png").unlink()


def _double(parts, pictures):
    with open(parts[0], "a") as file:
        file.write('{"image_id": "1.png", "raw": "a dog"}\n')


def _other_settings(parts, pictures):
    parts[2].write_text(parts[2].read_text().replace('"text": "a picture"', '"text": "other"'))


def _two_splits(parts, pictures):
    parts[2].rename(parts[2].with_name("pictures.shard-1-of-2.jsonl"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_missing_part, "no .*pictures.shard-2-of-3.jsonl .1 of 3 parts are missing.*--shard 2/3"),
        (_gap, "no part has a caption for image 'new.png' .1 such of 11."),
        (_stranger, "has no image '4.png', for which there is a caption"),
        (_double, "image '1.png' has a caption in another part too"),
        (_other_settings, "shard-1-of-3.jsonl was made with text 'a picture', .* with 'other'"),
        (_two_splits, "holds parts of 2 and of 3 for pictures"),
    ],
)
def test_parts_that_do_not_fit_are_not_merged(damage, message, pictures, parts, tmp_path, capsys):
    damage(parts, pictures)
    names = {path.name for path in tmp_path.iterdir()}
    error = _fails(capsys, "captions", "merge", pictures)
    assert re.search(message, error)
    assert {path.name for path in tmp_path.iterdir()} == names


def test_there_is_nothing_to_merge(pictures, capsys):
    assert "no parts to merge: expected" in _fails(capsys, "captions", "merge", pictures)
