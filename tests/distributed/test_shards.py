"""Parts of a data set, captioned and cleaned at the same time, are together the whole."""

import json
import subprocess
import sys

import pytest

from tadp_d2.cli import main
from tadp_d2.data.texts import read_captions

DATASET = "watercolor_test"
CLEAN = ("--domain", "watercolor", "--method", "rules")


def commands(folder, target, *options):
    caption = ("caption", DATASET, "--source", "oracle", "--caption-dir", str(folder), *options)
    return caption, ("clean", str(folder / f"{target}.jsonl"), *CLEAN)


@pytest.mark.exhaustive
def test_two_parts_captioned_and_cleaned_at_once_are_the_whole(world, tmp_path):
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    script = "import json, sys; from tadp_d2.cli import main\n"
    script += "for command in json.loads(sys.argv[1]): main(command)"
    processes = []
    for part in (1, 2):
        steps = commands(parts, f"{DATASET}.shard-{part}-of-2", "--shard", f"{part}/2")
        line = [sys.executable, "-c", script, json.dumps(steps)]
        processes.append(subprocess.Popen(line))
    for command in commands(whole, DATASET):
        main(command)
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    main(["captions", "merge", DATASET, "--caption-dir", str(parts)])

    merged, expected = (
        read_captions(folder / f"{DATASET}.jsonl").records for folder in (parts, whole)
    )
    assert list(merged) == list(expected)
    for image_id, caption in expected.items():
        assert caption.clean is not None
        assert (merged[image_id].raw, merged[image_id].clean) == (caption.raw, caption.clean)
    assert len({caption.raw for caption in expected.values()}) > 1
