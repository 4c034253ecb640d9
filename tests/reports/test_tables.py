"""Tables: every number in its place, a dash where there is none, and no text that breaks one."""

import csv
import io

from tadp_d2.reports.charts import bars
from tadp_d2.reports.comparison import compare
from tadp_d2.reports.formats import latex, markdown
from tadp_d2.reports.published import BENCHMARKS
from tadp_d2.reports.runs import find_runs
from tadp_d2.reports.tables import (
    Cell,
    Row,
    Table,
    effects_table,
    overview,
    paper_table,
    results_table,
)
from tadp_d2.reports.tidy import COLUMNS, results_csv


def rows(table):
    return {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in table.rows}


def test_ours_stand_beside_the_papers(make_run, voc):
    folders = [
        make_run(f"{modifier}_{seed}", modifier, seed, watercolor_test=voc(ap, ap50))
        for modifier, seed, ap, ap50 in [
            ("null", 1, 42.0, 70.0),
            ("simple", 1, 43.0, 73.0),
            ("simple", 2, 45.0, 72.0),
        ]
    ]
    (comparison,) = compare(find_runs(folders))
    table = paper_table(BENCHMARKS[0], comparison)
    assert table.columns[1:4] == ["AP, paper", "AP, ours", "difference"]
    found = rows(table)
    assert found["TADP null"] == ["42.1", "42.0", "-0.1", "72.1", "70.0", "-2.1", "1"]
    # The standard deviation of 43 and 45 is the square root of 2, that of 73 and 72 of 1/2.
    expected = ["43.5", "44.0 ± 1.4", "+0.5", "72.2", "72.5 ± 0.7", "+0.3", "2"]
    assert found["TADP simple"] == expected
    assert found["TADP DreamBooth"] == ["43.2", "-", "-", "72.2", "-", "-", "-"]
    assert found["UMT"] == ["-", "-", "-", "58.1", "-", "-", "-"]
    overall = rows(overview([comparison]))
    assert overall["simple"][:4] == [
        *("43.5 / 72.2", "44.0 ± 1.4 / 72.5 ± 0.7 (2 seeds)", "31.9 / 56.6", "-"),
    ]


def test_a_papers_rows_stand_below_ours_on_its_data_only(make_run):
    def sized(images):
        return lambda record: record["datasets"]["refcoco_unc_val"].update(images=images)

    metrics = {"referring": {"oIoU": 70.0, "mIoU": 72.0, "P@0.5": 80.0, "P@0.9": 30.0}}
    comparisons = {
        name: compare(
            find_runs([make_run(name, "null", edit=sized(images), refcoco_unc_val=metrics)])
        )[0]
        for name, images in (("published", 10834), ("synthetic", 204))
    }
    table = results_table(comparisons["published"])
    found = [dict(zip(table.columns[1:], cells, strict=True)) for cells in rows(table).values()]
    assert [row["oIoU"] for row in found] == ["70.0", "72.73", "73.25", "52.56", "63.04", "73.46"]
    assert [row["P@0.9"] for row in found] == ["30.0", "-", "-", "-", "-", "36.31"]
    assert list(rows(table))[2] == "VPD (VPD, table 3)" and not table.notes
    table = results_table(comparisons["synthetic"])
    assert list(rows(table)) == ["null"]
    assert "Not RefCOCO val, which has 10834 expressions" in table.notes[0]


def test_all_means_of_a_row_are_of_the_seeds_that_it_counts(make_run, voc):
    full = {**voc(90.0, 98.0, dog=99.0), "coco": {"AP": 50.0, "AP50": 80.0}}
    found_nothing = {**voc(0.0, 0.0, dog=None), "coco": {"AP": None, "AP50": None}}
    no_voc = {"coco": {"AP": 52.0, "AP50": 82.0}}
    folders = [
        make_run(f"{name}_{seed}", name, seed, published=False, watercolor_test=metrics)
        for name, seeds in (("null", [full, found_nothing]), ("simple", [full, no_voc, no_voc]))
        for seed, metrics in enumerate(seeds)
    ]
    (comparison,) = compare(find_runs(folders))
    table = results_table(comparison)
    voc_means = ["45.0 ± 63.6", "49.0 ± 69.3"] * 2
    assert rows(table) == {
        "null": [*voc_means, "-", "-", "2"],
        "simple": ["90.0", "98.0", "90.0", "98.0", "50.0", "80.0", "1"],
    }
    assert "null: no AP50 (coco) of seed 1." in table.notes
    assert "simple: no AP (voc07) of seed 1, 2." in table.notes
    dog = bars(comparison, {"null": "c0", "simple": "c1"}).partition("dog")[2]
    assert "<span>null (2 seeds)</span>" in dog and dog.count("<span>-</span>") == 1
    assert effects_table(comparison).rows[0].cells[-1].text == "1"


def test_a_difference_is_of_the_pairs_that_have_all_its_columns(make_run):
    runs = [
        make_run(f"{name}_{seed}", name, seed, watercolor_test={"voc07": {"AP": ap, "AP50": ap50}})
        for name, seed, ap, ap50 in [
            ("null", 1, 40.0, 70.0),
            ("null", 2, 50.0, None),
            ("simple", 1, 41.0, 72.0),
            ("simple", 2, 60.0, 80.0),
        ]
    ]
    (comparison,) = compare(find_runs(runs))
    assert rows(effects_table(comparison)) == {"simple": ["+1.00", "-", "+2.00", "-", "1"]}


def test_what_is_not_the_papers_data_never_stands_beside_its_numbers(make_run, voc):
    folder = make_run("a", "simple", published=False, watercolor_test=voc(91.7, 98.3))
    comparisons = compare(find_runs([folder]))
    assert rows(overview(comparisons)) == rows(overview([]))
    table = results_table(comparisons[0])
    assert rows(table) == {"simple": ["91.7", "98.3", "91.7", "98.3", "1"]}
    assert "Not Watercolor2k" in table.notes[0]


def test_differences_to_null_have_an_interval_from_three_pairs_on(make_run, voc):
    null, simple, nearby = (40.0, 41.0, 42.0), (41.0, 43.0, 45.0), (41.0, 40.0)
    folders = [
        make_run(f"{name}_{seed}", name, seed, watercolor_test=voc(value, 70.0))
        for name, values in (("null", null), ("simple", simple), ("nearby", nearby))
        for seed, value in enumerate(values)
    ]
    (comparison,) = compare(find_runs(folders))
    # Of three pairs the interval reaches from the least difference to the greatest.
    assert rows(effects_table(comparison)) == {
        "simple": ["+2.00", "+1.00 to +3.00 (better)", "+0.00", "+0.00 to +0.00", "3"],
        "nearby": ["+0.00", "-", "+0.00", "-", "2"],
    }
    lines = list(csv.DictReader(io.StringIO(results_csv([comparison]))))
    assert tuple(lines[0]) == COLUMNS
    (line,) = [
        line
        for line in lines
        if (line["modifier"], line["metric set"], line["metric"]) == ("simple", "voc07", "AP")
    ]
    assert float(line["paper"]) == 43.5
    assert [float(line[key]) for key in ("mean", "standard deviation")] == [43.0, 2.0]
    assert [float(line[key]) for key in ("difference to null", "from", "to")] == [2.0, 1.0, 3.0]


def test_without_null_or_a_common_seed_there_is_no_difference(make_run, voc):
    folders = [
        make_run("a", "simple", 1, watercolor_test=voc(43, 72)),
        make_run("b", "null", 2, watercolor_test=voc(43, 72)),
    ]
    (comparison,) = compare(find_runs(folders))
    assert effects_table(comparison) is None


def test_no_text_breaks_a_table():
    hostile = "a|b <img src=x> `c` *d* \n &%$#_{}~^\\ <watercolor>"
    table = Table(hostile, ["modifier", "AP"], [Row([Cell(hostile), Cell("-")])], [hostile])
    first, _, line, *_ = markdown(table).splitlines()
    assert first == "| modifier | AP |"
    # GitHub divides a line at every bar that has no backslash.
    assert line.replace("\\|", "").count("|") == 3
    assert "\\<img src=x\\>" in line
    body = latex(table).split("\\midrule\n")[1].split("\\bottomrule")[0]
    assert body == (
        r"a|b \textless{}img src=x\textgreater{} `c` *d* \&\%\$\#\_\{\}\textasciitilde{}"
        r"\textasciicircum{}\textbackslash{} \textless{}watercolor\textgreater{} & -- \\" + "\n"
    )
