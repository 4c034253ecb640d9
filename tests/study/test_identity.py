import os
import shutil

import pytest

from tadp_d2.errors import UserError
from tadp_d2.study import adaptation, attention_shares, named_styles, personalized, prompts
from tadp_d2.study.prompts import PROMPT_QUESTIONS
from tadp_d2.study.questions import QUESTIONS
from tadp_d2.synthetic.data_folder import MODEL_FOLDER


def adaptation_jobs(world, folder):
    learning, trainings = adaptation.jobs(world, folder, [QUESTIONS["source-style"]], [0])
    return learning + trainings


def words_jobs(world, folder):
    (folder / "model_final.pth").write_text("a detector")
    return named_styles.jobs(world, folder, [0], run=folder)


def test_the_demo_of_prompts_needs_the_images_of_one_task_and_others_name_what_is_missing(
    world, tmp_path
):
    own = ("pascal_trainaug.jsonl", "pascal_val.jsonl")
    (tmp_path / "captions").mkdir()
    for name in own:
        (tmp_path / "captions" / name).symlink_to(world / "captions" / name)
    (tmp_path / MODEL_FOLDER).symlink_to(world / MODEL_FOLDER)

    def made_of(of_world):
        jobs = prompts.jobs(of_world, tmp_path, [PROMPT_QUESTIONS["demo"]], [0])
        return [job.made_of for job in jobs]

    assert made_of(tmp_path) == made_of(world)
    message = r"no file .*cityscapes_foggy_val.jsonl: tadp-d2 synth .* draws the data sets that"
    with pytest.raises(UserError, match=message):
        prompts.jobs(tmp_path, tmp_path, [PROMPT_QUESTIONS["table-1"]], [0])
    (tmp_path / "captions" / own[1]).unlink()
    (tmp_path / "captions" / own[1]).write_text("{}")
    assert all(a != b for a, b in zip(made_of(tmp_path), made_of(world), strict=True))


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
