import pytest

from tadp_d2.cli import main
from tadp_d2.personalization.model import TrainableDiffusion
from tadp_d2.personalization.objective import held_out_loss
from tadp_d2.personalization.training_images import Crops, read_pictures
from tadp_d2.study import personalized
from tadp_d2.study.personalized import jobs, learn_and_measure, table
from tadp_d2.synthetic.data_folder import MODEL_FOLDER


def result(method, style, seed, watercolor, comic, before=1.0):
    return {
        "method": method,
        "style": style,
        "seed": seed,
        "before": {"watercolor": before, "comic": before},
        "after": {"watercolor": watercolor, "comic": comic},
    }


def test_the_table_pairs_seeds_and_counts_wins():
    results = []
    for method in ("invert", "dreambooth"):
        results += [
            result(method, "watercolor", 1, watercolor=0.8, comic=0.7),
            result(method, "watercolor", 0, watercolor=0.6, comic=0.9),
            result(method, "comic", 0, watercolor=0.65, comic=0.9),
            result(method, "comic", 1, watercolor=0.75, comic=1.1),
        ]
    lines = table(results).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == [
        *("invert", "watercolor", "1.0000 ± 0.0000", "0.7000 ± 0.1414", "0.7000 ± 0.0707"),
        *("2 of 2", "1 of 2"),
    ]
    cells = [cell.strip() for cell in lines[3].strip("|").split("|")]
    assert cells[2:] == [
        *("1.0000 ± 0.0000", "1.0000 ± 0.1414", "0.8000 ± 0.1414", "1 of 2", "0 of 2")
    ]


@pytest.mark.parametrize("method", ["invert", "dreambooth"])
def test_before_is_the_untouched_model_under_known_words(world, tmp_path, method, monkeypatch):
    monkeypatch.setattr(personalized, "LEARNED_FROM", 2)
    monkeypatch.setattr(personalized, "HELD_OUT", 2)
    monkeypatch.setattr(personalized, "DRAWS", 1)
    monkeypatch.setitem(personalized.SETTINGS[method], "steps", 1)
    found = learn_and_measure(world, tmp_path, method, "comic", seed=3)
    words = {"invert": "a comic style painting of", "dreambooth": "a sks style painting of"}[method]
    model = TrainableDiffusion.load(str(world / MODEL_FOLDER))
    captions = personalized.read_captions(world / "captions" / "watercolor_test.jsonl").captions
    ids = (world / "watercolor/ImageSets/Main/test.txt").read_text().split()[:2]
    pictures, _ = read_pictures([world / "watercolor/JPEGImages" / f"{i}.jpg" for i in ids], 192)
    images = Crops(pictures, 192).middles(2)
    expected = held_out_loss(model, images, [f"{words} {captions[i]}" for i in ids], 3, draws=1)
    # In batches of another size.
    assert found["before"]["watercolor"] == pytest.approx(expected, rel=1e-5)
    assert found["after"].keys() == {"watercolor", "comic"}
    assert found["after"] != found["before"]


def test_every_seed_learns_from_other_pictures_and_never_from_held_out_ones(world, tmp_path):
    made = jobs(world, tmp_path, range(2))
    assert len(made) == len({job.file for job in made}) == 8
    held_out = set(personalized._image_ids(world, "comic", "test"))
    chosen = personalized._pictures_to_learn_from(world, "comic", seed=0)
    assert not {path.stem for path in chosen} & held_out


def test_wrong_numbers_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["study", "personalization", "--seeds", "0", "--output", str(tmp_path / "out")])
    assert exit_.value.code == 2
    assert "--seeds 0: expected at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
