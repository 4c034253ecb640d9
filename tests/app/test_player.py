"""One model under changing words, alone and beside one of another task."""

import numpy as np
import pytest

from tadp_d2.app.job_queue import Cancelled
from tadp_d2.app.player import Words
from tadp_d2.app.playground import Playground
from tadp_d2.errors import UserError

DOG = Words("a dog", "watercolor", "simple")


def report(jobs, number):
    """The report of a job that has ended."""
    while True:
        found = jobs.report(number)
        if found["state"] not in ("waiting", "running"):
            return found


def test_words_that_do_not_fit_are_counted(player):
    reading = player.read(DOG._replace(text="dog " * 100), "a.jpg")
    # Begin, "a watercolor style painting of", the text, end.
    assert (reading["tokens"], reading["wanted"], reading["limit"]) == (77, 107, 77)
    assert reading["words"] == ["a", "watercolor", "style", "painting", "of"] + ["dog"] * 70


def test_what_a_step_raises_ends_the_work_and_the_model_is_as_before(player):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    steps = []
    before, _ = player.play(pixels, DOG, "a.jpg", lambda: steps.append(1))
    half = len(steps) // 2
    calls = []

    def stop():
        calls.append(1)
        if len(calls) > half:
            raise Cancelled

    with pytest.raises(Cancelled):
        player.play(pixels, DOG._replace(text="a cat"), "a.jpg", stop)
    assert not any(m._forward_pre_hooks for m in player.predictor.model.modules())
    assert player.play(pixels, DOG, "a.jpg", lambda: None)[0] == before
    other = player.play(pixels, DOG._replace(domain="comic"), "a.jpg", lambda: None)[0]
    assert other["drawing"] != before["drawing"]


def test_two_tasks_stand_side_by_side(player, detector, make_player, tmp_path):
    playground = Playground([make_player(detector), player], tmp_path)
    try:
        side = {"model": 0, **DOG._asdict()}
        request = {"image": "watercolor_test:0", "sides": [side, side | {"model": 1}]}
        result = report(playground.jobs, playground.play(request))["result"]
        assert result["changes"] is None
        assert all(
            much.endswith("% of the area") for much in result["sides"][1]["summary"].values()
        )
        request["sides"] = [side | {"model": 1}] * 2
        assert report(playground.jobs, playground.play(request))["result"]["changes"]["share"] == 0
        request["sides"][1] = side | {"model": 1, "modifier": "null"}
        changes = report(playground.jobs, playground.play(request))["result"]["changes"]
        assert 0 < changes["share"] < 1
        assert [name for name in playground.setup()["datasets"]][0] == "watercolor_test"
    finally:
        playground.jobs.close()


def test_a_model_that_reads_no_text_has_no_text_field(make_player, detector, monkeypatch):
    monkeypatch.setattr("tadp_d2.records.provenance.Provenance.check", lambda *_: None)
    silent = make_player(detector, "MODEL.CONDITIONER.NAME", "EmptyText")
    assert silent.reads == ""
    assert silent.read(DOG, "a.jpg")["prompt"] == "a watercolor style painting of"
    assert "--caption" not in silent.command(DOG, "-a.jpg")
    assert silent.command(DOG, "-a.jpg").startswith("tadp-d2 predict ./-a.jpg ")
    with pytest.raises(UserError, match="reads present of every image"):
        make_player(detector, "MODEL.CONDITIONER.NAME", "Oracle")
