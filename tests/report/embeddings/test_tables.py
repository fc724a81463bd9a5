"""The tables of an embedding run."""

from kdkit.report.embeddings.tables import (
    detail_tables,
    dimension_table,
    facts_table,
    model_table,
    score_table,
    search_table,
    student_difference_table,
    task_table,
    training_table,
)
from kdkit.report.writing import Best
from tests.report.embeddings.finished_runs import TRAININGS, make_evaluation, training_entry


def cell(table, row, heading):
    """Return the cell of a row, found by how it begins, under a heading."""
    headings, rows = table
    return next(cells for cells in rows if cells[0].startswith(row))[headings.index(heading)]


def test_rows_are_teacher_untrained_student_compared_and_ready():
    names = [row[0] for row in score_table(make_evaluation())[1]]
    assert names == ["teacher", "student, untrained", "student: talas", "rkd", "emo", "off the shelf (not asked for)"]


def test_headings_name_each_tasks_metric():
    headings = score_table(make_evaluation())[0]
    assert headings[3:6] == ["STS-B, Spearman \u2191", "Banking77, accuracy \u2191", "MRPC, AP \u2191"]


def test_a_score_stands_beside_half_its_interval():
    assert cell(score_table(make_evaluation()), "rkd", "MRPC, AP \u2191") == "78.50 \u00b1 1.5"


def test_only_the_best_trained_model_is_bold():
    table = score_table(make_evaluation({"teacher": 79.0, "untrained": 79.0}))
    bold = [row[0] for row in table[1] if isinstance(row[1], Best)]
    assert bold == ["student: talas"]


def test_a_model_that_is_not_there_shows_dashes():
    row = score_table(make_evaluation())[1][-1]
    assert set(row[1:]) == {"-"}


def test_details_show_both_protocols_and_the_oracle():
    tables = detail_tables(make_evaluation())
    assert list(tables) == ["Similarity", "Classification", "Pairs"]
    assert tables["Classification"][1][0] == ["Banking77", "teacher", "70.00", "0.80", "69.00", "90.00", "89.00"]
    assert tables["Pairs"][1][0][2:] == ["85.00", "71.00", "79.00", "75.00", "84.00", "72.00"]


def test_details_of_pairs_without_a_threshold_are_dashes():
    evaluation = make_evaluation()
    evaluation["models"]["teacher"]["tasks"]["MRPC"]["accuracy"] = None
    assert detail_tables(evaluation)["Pairs"][1][0][3] == "-"


def test_differences_count_the_tasks_beyond_chance():
    table = student_difference_table(make_evaluation({"rkd": 78.9, "emo": 80.0}))
    assert cell(table, "student, untrained", "tasks better") == "3"
    assert cell(table, "rkd", "undecided") == "3"
    assert cell(table, "emo", "tasks worse") == "3"
    assert cell(table, "emo", "95 % interval") == "-1.30 to -0.70"


def test_models_leave_out_what_is_not_there():
    names = [row[0] for row in model_table(make_evaluation())[1]]
    assert not any("off the shelf" in name for name in names)


def test_smaller_widths_have_a_table_only_where_they_were_scored():
    assert dimension_table(make_evaluation())[1] == []
    headings, rows = dimension_table(make_evaluation(dimensions={"64": 70.0}))
    assert headings[1:] == ["stored as", "64 numbers", "384 numbers", "nearest ten found ↑"]
    assert rows == [["student: talas", "float32", "70.00 (256 B)", "79.00 (1,536 B)", "100.0%"]]


def test_stored_vectors_have_a_line_for_every_way_of_storing():
    evaluation = make_evaluation()
    student = evaluation["models"]["talas"]
    student["nearest_kept"] = {"binary": 0.875}
    for task in student["tasks"].values():
        task["quantised"] = {"binary": {"100": 60.0, "384": 70.0}}
    assert dimension_table(evaluation)[1] == [
        ["student: talas", "float32", "-", "79.00 (1,536 B)", "100.0%"],
        ["student: talas", "binary", "60.00 (13 B)", "70.00 (48 B)", "87.5%"],
    ]


def test_a_search_among_stored_documents_has_a_line_for_bits_rescored():
    evaluation = make_evaluation(dimensions={"100": 75.0})
    assert search_table(evaluation)[1] == []
    evaluation["tasks"]["MRPC"]["kind"] = "retrieval"
    numbers = evaluation["models"]["talas"]["tasks"]["MRPC"]
    numbers |= {"quantised": {"binary": {"100": 60.0, "384": 70.0}}, "rescored": {"100": 65.0, "384": 74.0}}
    headings, rows = search_table(evaluation)
    assert headings[3:] == ["nDCG@10 ↑, 100 numbers", "nDCG@10 ↑, 384 numbers"]
    assert rows == [
        ["MRPC", "student: talas", "float32", "75.00 (400 B)", "79.00 (1,536 B)"],
        ["MRPC", "student: talas", "binary", "60.00 (13 B)", "70.00 (48 B)"],
        ["MRPC", "student: talas", "binary, rescored", "65.00 (13 B)", "74.00 (48 B)"],
    ]


def test_training_table_has_a_line_per_training():
    table = training_table(TRAININGS | {"emo": training_entry(collapsed=True)})
    assert cell(table, "emo", "collapsed") == "yes"
    assert cell(table, "talas", "ms per step") == "1,254.2"


def test_facts_open_groups_and_read_bytes():
    facts = {"removed": {"STS-B": 7}, "file_bytes": 2_500_000, "list": [1], "prompt": "", "same_tokenizer": True}
    rows = facts_table(facts | {"mean": 21.41234})[1]
    assert rows == [
        ["removed: STS-B", "7"],
        ["file, MB", "2.5"],
        ["prompt", "-"],
        ["same tokenizer", "yes"],
        ["mean", "21.41"],
    ]


def test_tasks_name_rows_source_and_revision():
    evaluation = make_evaluation()
    evaluation["tasks"]["MRPC"] |= {"revision": "0123456789abcdef", "fit_rows": 408}
    rows = task_table(evaluation)[1]
    assert rows[1] == ["Banking77", "accuracy", "1,379", "-", "Banking77.csv", "-"]
    assert rows[2] == ["MRPC", "AP", "1,379", "408", "MRPC.csv", "0123456789ab"]
