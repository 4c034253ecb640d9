import os
import shutil

import pytest

from tadp_d2.study import adaptation, attention_shares, named_styles, personalized
from tadp_d2.study.questions import QUESTIONS
from tadp_d2.synthetic.data_folder import MODEL_FOLDER


def adaptation_jobs(world, folder):
    learning, trainings = adaptation.jobs(world, folder, [QUESTIONS["source-style"]], [0])
    return learning + trainings


def words_jobs(world, folder):
    (folder / "model_final.pth").write_text("a detector")
    return named_styles.jobs(world, folder, [0], run=folder)


@pytest.mark.parametrize(
    "make_jobs",
    [
        adaptation_jobs,
        attention_shares.jobs,
        lambda world, folder: personalized.jobs(world, folder, [0]),
        words_jobs,
    ],
    ids=["adaptation", "attention", "personalization", "words"],
)
@pytest.mark.parametrize(
    "changed", ["captions/comic_test.jsonl", f"{MODEL_FOLDER}/text_encoder/model.safetensors"]
)
def test_results_of_another_world_are_told_apart(world, tmp_path, make_jobs, changed):
    def made_of(of_world):
        return [job.made_of for job in make_jobs(of_world, tmp_path)]

    twin = tmp_path / "twin"
    for name in ("captions", MODEL_FOLDER):
        shutil.copytree(world / name, twin / name, copy_function=os.symlink)
    here = made_of(world)
    assert made_of(twin) == here
    # What is written about the same images for another task makes no other results.
    (twin / "captions" / "further.jsonl").write_text("{}")
    assert made_of(twin) == here
    # The pictures are others, or one part of the model; the UNet is the same.
    (twin / changed).unlink()
    (twin / changed).write_bytes((world / changed).read_bytes() + b"\n")
    assert all(mine != other for mine, other in zip(here, made_of(twin), strict=True))
