"""Which results are put together, and which are kept apart."""

from tadp_d2.reports.comparison import compare
from tadp_d2.reports.runs import find_runs
from tadp_d2.reports.tables import results_table


def learning_rate(value):
    def edit(record):
        record["config"]["SOLVER"]["BASE_LR"] = value

    return edit


def test_seeds_are_put_together_and_modifiers_in_the_papers_order(make_run, voc):
    folders = [
        make_run("a", "unrelated", 1, watercolor_test=voc(42, 70)),
        make_run("b", "simple", 2, watercolor_test=voc(44, 73)),
        make_run("c", "simple", 1, watercolor_test=voc(43, 72)),
        make_run("d", "a charcoal sketch of {caption}", 1, watercolor_test=voc(1, 2)),
        make_run("e", "null", 1, watercolor_test=voc(40, 71)),
    ]
    (comparison,) = compare(find_runs(folders))
    assert comparison.benchmark.title == "Watercolor2k"
    assert {group.title: group.values("voc07", "AP") for group in comparison.groups} == {
        "null": {1: 40},
        "simple": {1: 43, 2: 44},
        "unrelated": {1: 42},
        "a charcoal sketch of {caption}": {1: 1},
    }
    titles = [group.title for group in comparison.groups]
    assert titles == ["null", "simple", "unrelated", "a charcoal sketch of {caption}"]
    simple = comparison.groups[1]
    difference = comparison.to_null(simple, "voc07", "AP")[0]
    assert (difference.mean, difference.pairs) == (3, 1)


def test_another_unet_is_another_setting_unless_the_modifier_brings_it(make_run, voc):
    def other_unet(record):
        record["config"]["MODEL"] = {"DIFFUSION": {"UNET": "artifacts/unet"}}
        record["provenance"]["unet"] = "f" * 64

    folders = [
        make_run("a", "null", watercolor_test=voc(40, 71)),
        make_run("b", "null", watercolor_test=voc(20, 50), edit=other_unet),
        make_run("c", "dreambooth", watercolor_test=voc(44, 74), edit=other_unet),
    ]
    (comparison,) = compare(find_runs(folders))
    found = {(g.title, g.setting): g.values("voc07", "AP") for g in comparison.groups}
    assert found == {("null", "A"): {1: 40}, ("DreamBooth", "A"): {1: 44}, ("null", "B"): {1: 20}}


def test_results_before_there_was_a_precision_of_testing_are_of_fp32(make_run, voc):
    def precise(precision):
        return lambda record: record["config"].update(TEST={"PRECISION": precision})

    make_run("old", "null", seed=1, watercolor_test=voc(40, 70))
    make_run("new", "null", seed=2, edit=precise("fp32"), watercolor_test=voc(42, 72))
    folder = make_run("bf16", "null", seed=3, edit=precise("bf16"), watercolor_test=voc(10, 20))
    (comparison,) = compare(find_runs([folder.parent]))
    values = [group.values("voc07", "AP") for group in comparison.groups]
    assert values == [{1: 40, 2: 42}, {3: 10}]


def test_results_of_another_setting_are_not_averaged(make_run, voc):
    folders = [
        make_run("a", "simple", 1, watercolor_test=voc(43, 72), edit=learning_rate(1e-4)),
        make_run("b", "simple", 2, watercolor_test=voc(44, 72)),
        make_run("c", "null", 1, watercolor_test=voc(40, 72)),
        make_run("d", "null", 2, watercolor_test=voc(41, 72), edit=lambda r: r.update(iteration=9)),
    ]
    (comparison,) = compare(find_runs(folders))
    found = {(g.title, g.setting): g.values("voc07", "AP") for g in comparison.groups}
    # A is the setting with most results.
    assert found == {
        ("null", "A"): {1: 40},
        ("null", "C"): {2: 41},
        ("simple", "A"): {2: 44},
        ("simple", "B"): {1: 43},
    }
    assert comparison.settings == {
        "A": "SOLVER.BASE_LR 1e-05; iterations 100",
        "B": "SOLVER.BASE_LR 0.0001; iterations 100",
        "C": "SOLVER.BASE_LR 1e-05; iterations 9",
    }


def test_data_of_the_same_name_is_kept_from_the_papers(make_run, voc):
    folders = [
        make_run("world", "simple", 1, published=False, watercolor_test=voc(90, 99)),
        make_run("paper", "simple", 2, watercolor_test=voc(43, 72)),
    ]
    paper, world = compare(find_runs(folders))
    assert (paper.benchmark.title, world.benchmark) == ("Watercolor2k", None)
    assert [g.values("voc07", "AP") for c in (paper, world) for g in c.groups] == [{2: 43}, {1: 90}]
    assert world.title == "watercolor_test (50 images)"


def test_the_modifier_of_another_domain_is_not_the_papers_row(make_run, voc):
    folder = make_run("a", "simple", domain="comic", watercolor_test=voc(43, 72))
    (comparison,) = compare(find_runs([folder]))
    assert comparison.groups[0].title == "a comic style painting of {caption}"


def test_an_evaluation_that_repeats_its_run_counts_once(make_run, voc):
    run = make_run("a", "simple", 1, watercolor_test=voc(43, 72))
    same = make_run("a/evaluation", "simple", 1, watercolor_test=voc(43, 72))
    (comparison,) = compare(find_runs([run, same]))
    assert comparison.groups[0].values("voc07", "AP") == {1: 43}


def test_of_two_trainings_that_differ_the_first_counts_and_the_other_is_noted(make_run, voc):
    # Both configs train on the same source; on a GPU they agree but for the last digits.
    runs = [
        make_run("watercolor", "null", 1, watercolor_test=voc(40, 71), voc_2007_test=voc(50, 80)),
        make_run("comic", "null", 1, comic_test=voc(30, 60), voc_2007_test=voc(50.1, 80)),
    ]
    comparisons = {c.dataset: c for c in compare(find_runs(runs))}
    source = comparisons["voc_2007_test"]
    assert source.groups[0].values("voc07", "AP") == {1: 50}
    (note,) = source.notes
    assert all(str(run) in note for run in runs) and "seed 1" in note
    assert note in results_table(source).notes
    assert not comparisons["comic_test"].notes


def test_an_evaluation_may_add_metrics(make_run, voc):
    more = voc(43, 72) | {"coco": {"AP": 20.0, "AP50": 40.0}}
    folders = [
        make_run("a", "simple", 1, watercolor_test=voc(43, 72)),
        make_run("a/evaluation", "simple", 1, watercolor_test=more),
    ]
    for order in (folders, folders[::-1]):
        (comparison,) = compare(find_runs(order))
        assert not comparison.notes
        assert comparison.groups[0].values("coco", "AP50") == {1: 40}
