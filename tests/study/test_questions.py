import itertools

import pytest

from tadp_d2.conditioning.domains import DOMAINS
from tadp_d2.study import caption_kinds
from tadp_d2.study.adaptation import SCHEDULES, jobs
from tadp_d2.study.questions import PRETRAINED, QUESTIONS, TARGETS, Reading, Training, plan

ALL_ARMS = [
    pytest.param(domain, arms, id=f"{name}-{domain}")
    for name, question in QUESTIONS.items()
    for domain, arms in question.arms().items()
]
CAPTIONS = Training()


@pytest.mark.parametrize("domain, arms", ALL_ARMS)
def test_arms_exist_and_claims_are_about_arms(domain, arms):
    names = [arm.name for arm in arms]
    assert len(set(names)) == len(names) > 1
    assert len({(arm.training, arm.test) for arm in arms}) == len(arms)
    assert any(arm.claims for arm in arms)
    for arm in arms:
        assert {claim.against for claim in arm.claims} <= set(names) - {arm.name}
        kinds = {arm.training.reading.captions, arm.test.captions}
        assert kinds <= caption_kinds.KINDS.keys() | {caption_kinds.EXPRESSIONS}
        assert arm.training.task in SCHEDULES


def test_claims_are_about_what_the_tables_compare():
    for question in QUESTIONS.values():
        for arm in itertools.chain(*question.arms().values()):
            for claim in arm.claims:
                if "table S2" in claim.source:
                    # Its models are trained and tested under the same captions.
                    as_there = arm.training.reading == arm.test
                    assert as_there != claim.source.endswith("trained so")
    # VPD knows no captions.
    claims = {
        (arm.name, claim.against)
        for arm in itertools.chain(*QUESTIONS["text"].arms().values())
        for claim in arm.claims
        if claim.source == "VPD table 5"
    }
    assert claims == {(caption_kinds.CLASS_EMBEDDINGS, "empty")}


def test_what_questions_share_is_trained_once_and_tested_on_all():
    found = plan(QUESTIONS.values())
    assert len({training.name for training in found}) == len(found)
    sides = {
        (arm.training, TARGETS[domain].dataset, arm.test)
        for question in QUESTIONS.values()
        for domain, arms in question.arms().items()
        for arm in arms
    }
    tested = [(t, dataset, r) for t, own in found.items() for dataset in own for r in own[dataset]]
    assert len(tested) == len(set(tested)) and set(tested) == sides
    # The plain model serves most questions.
    assert {
        Reading(),
        Reading(caption_kinds.OWN, "a watercolor style painting of {caption}"),
    } <= set(found[CAPTIONS]["watercolor_test"])
    assert "dark_zurich_val" not in found[CAPTIONS]


def test_one_question_asks_for_its_trainings_with_all_their_tests():
    every = plan(QUESTIONS.values())
    some = plan([QUESTIONS["latent-scaling"]])
    assert set(some) == {
        CAPTIONS,
        Training(options=(("MODEL.DIFFUSION.LATENT_SCALING", False),)),
    }
    assert all(every[training] == tested for training, tested in some.items())


def test_modifiers_are_the_papers_and_the_fine_tuned_unet_goes_with_its_words():
    for domain, arms in QUESTIONS["modifiers"].arms().items():
        templates = [modifier.template for modifier in DOMAINS[domain].modifiers.values()]
        assert [arm.training.reading.template for arm in arms] == templates
        assert all(arm.training.reading == arm.test for arm in arms)
        tuned = [arm.name for arm in arms if arm.training.unet != PRETRAINED]
        assert tuned == ["DreamBooth"]
    # Tables 4 and 5 of the paper.
    directions = {
        domain: [claim.direction for arm in arms for claim in arm.claims]
        for domain, arms in QUESTIONS["modifiers"].arms().items()
    }
    assert directions == {
        "watercolor": [1, 1, 1, -1, -1],
        "comic": [-1, 0, -1, -1, -1],
        "night": [-1, -1, -1, -1, -1],
    }


def test_jobs_come_by_training_and_seed_and_name_what_they_need_first(world, tmp_path):
    question = QUESTIONS["source-style"]
    learning, trainings = jobs(world, tmp_path, [question], range(2))
    pairs = [(job.arguments["training"], job.arguments["seed"]) for job in trainings]
    assert len(set(pairs)) == len(pairs) == len(plan([question])) * 2
    assert {job.file.name for job in learning} == {
        f"invert_{style}_{seed}.json"
        for style in ("watercolor", "comic", "photo")
        for seed in (0, 1)
    }
    for job in trainings:
        job.file.parent.mkdir(exist_ok=True)
        job.file.touch()
    # What is done needs nothing.
    assert jobs(world, tmp_path, [question], range(2))[0] == []


def test_a_result_is_made_of_contents_and_not_of_places(world, tmp_path):
    def made_of(folder):
        _, trainings = jobs(world, folder, QUESTIONS.values(), [0])
        return [job.made_of for job in trainings]

    here = made_of(tmp_path / "here")
    assert made_of(tmp_path / "there") == here
    assert str(world) not in str(here)
    assert len({str(content) for content in here}) == len(here)
