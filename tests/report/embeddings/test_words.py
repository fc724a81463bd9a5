"""The words about an embedding run: verdict, warnings, protocols."""

import json
from pathlib import Path

import pytest

from kdkit.report.embeddings.words import COSTS, cache_words, embedding_verdict, protocols, warnings
from tests.report.embeddings.finished_runs import ASKED, TRAININGS, make_evaluation, model_entry, training_entry

MEASURED = Path(__file__).resolve().parents[3] / "benchmarks/results/embedding_methods.json"


def test_verdict_of_a_student_that_learned():
    words = embedding_verdict(make_evaluation())
    assert "The student (talas) beats the same student before training: 79.00 against 75.00" in words
    assert "+4.00 points for the student (95 % interval +3.70 to +4.30)" in words
    assert "keeps 96.3% of the teacher's average (82.00) with 77% of its parameters, at 1.9 times" in words
    assert "No method that was compared scores higher; the nearest is rkd with 78.50" in words


def test_verdict_after_few_steps_gives_figures_and_no_judgement():
    evaluation = make_evaluation()
    evaluation["models"]["talas"]["steps"] = 6
    words = embedding_verdict(evaluation)
    assert words.startswith("Too short to tell whether training helped: 6 steps are fewer than the 50")
    assert "is at 79.00, at 75.00 before training" in words and "+3.70 to +4.30" in words
    assert "beats" not in words and "rkd" not in words
    evaluation["models"]["talas"]["steps"] = 62  # as in the demo
    assert "beats the same student before training" in embedding_verdict(evaluation)


def test_verdict_of_a_student_that_got_worse():
    assert "(talas) is worse than the same student before training" in embedding_verdict(
        make_evaluation({"untrained": 80.0})
    )


def test_verdict_of_a_student_that_learned_nothing_beyond_chance():
    words = embedding_verdict(make_evaluation({"untrained": 78.9}))
    assert "(talas) is not better than the same student before training, beyond chance" in words


def test_verdict_says_plainly_that_a_simpler_method_is_better():
    words = embedding_verdict(make_evaluation({"rkd": 79.5, "emo": 80.0}))
    assert "The simpler method rkd is better: 79.50, a difference of -0.50 points" in words
    assert "Higher too: emo." in words


def test_verdict_of_a_simpler_method_within_chance():
    assert "The simpler method rkd scores higher, though not beyond chance: 79.10" in embedding_verdict(
        make_evaluation({"rkd": 79.1})
    )


def test_verdict_of_a_compared_method_that_is_no_simpler():
    words = embedding_verdict(make_evaluation({"emo": 80.0}))
    assert "The compared method emo is better: 80.00" in words


def test_verdict_of_a_simple_student_calls_no_method_simpler():
    averages = {"talas": None, "cosine": 79.0, "rkd": 80.0}
    assert "The compared method rkd is better" in embedding_verdict(make_evaluation(averages, student="cosine"))


def test_verdict_without_compared_methods_says_nothing_of_them():
    assert "compared" not in embedding_verdict(make_evaluation({"rkd": None, "emo": None}))


def test_verdict_of_a_ready_model_that_is_better():
    evaluation = make_evaluation()
    evaluation["models"]["off the shelf"] = model_entry("off_the_shelf", 81.0)
    found = {"difference": -2.0, "interval_95": [-2.5, -1.5]}
    evaluation["differences"]["off the shelf"] = {"average": found, "tasks": {}}
    assert "The ready model (off the shelf) is better: 81.00" in embedding_verdict(evaluation)


def test_verdict_of_a_teacher_without_any_score():
    evaluation = make_evaluation()
    evaluation["models"]["talas"]["share_of_teacher"] = None
    assert "there is no share of it to keep" in embedding_verdict(evaluation)


def test_a_usual_run_has_no_warnings():
    assert warnings(make_evaluation(), TRAININGS) == []


def test_a_collapsed_student_is_warned_of():
    found = warnings(make_evaluation(cosine=0.94), TRAININGS)
    assert len(found) == 1
    assert "mean cosine of 0.94" in found[0]


def test_a_collapsed_compared_training_is_named():
    found = warnings(make_evaluation(), TRAININGS | {"emo": training_entry(collapsed=True)})
    assert found == ["Trainings that collapsed (mean cosine above 0.9): emo."]


def test_tasks_made_of_held_out_sentences_are_called_no_benchmark():
    evaluation = make_evaluation()
    for task in evaluation["tasks"].values():
        task["source"] = "python-docs"
    assert "are no benchmark" in warnings(evaluation, TRAININGS)[0]


def test_a_task_of_few_rows_is_called_rough():
    evaluation = make_evaluation()
    evaluation["tasks"]["MRPC"]["rows"] = 16
    assert warnings(evaluation, TRAININGS) == ["Tasks of fewer than 100 rows: MRPC (16). Their scores are rough."]


def test_cache_words_name_memory_before_and_after():
    words = cache_words(ASKED)
    assert "asked once, in 61.2 s, and its answers kept (9.0 MB in 2 files)" in words
    assert "900 MB at most while it answered, 700 MB once it was freed" in words


def test_cache_words_of_an_earlier_run_and_of_a_live_teacher():
    earlier = {key: value for key, value in ASKED.items() if key != "memory"} | {"from_cache": True}
    assert "were there from an earlier run (9.0 MB in 2 files)" in cache_words(earlier)
    assert "answered in every step" in cache_words({"from_cache": False, "seconds": 1.0})


def test_notes_of_tasks_are_warnings():
    evaluation = make_evaluation()
    evaluation["tasks"]["MRPC"]["notes"] = ["MRPC: 3 of 9 rows count as wrong"]
    assert warnings(evaluation, TRAININGS) == ["MRPC: 3 of 9 rows count as wrong"]


def test_a_protocol_is_said_once_for_all_its_tasks():
    evaluation = make_evaluation()
    for entry in evaluation["models"].values():
        if "tasks" in entry:
            entry["tasks"]["MRPC"]["protocol"] = "sts as usual"
    assert protocols(evaluation) == [("STS-B, MRPC", "sts as usual"), ("Banking77", "classification as usual")]


def test_where_models_are_scored_by_different_means_each_is_named():
    evaluation = make_evaluation()
    del evaluation["tasks"]["MRPC"], evaluation["tasks"]["Banking77"]
    for entry in evaluation["models"].values():
        if "tasks" in entry:
            entry["tasks"] = {"S": {"protocol": "MaxSim" if entry["role"] == "student" else "cosine"}}
    (others, by_cosine), (student, by_tokens) = sorted(protocols(evaluation), key=lambda row: row[1] == "MaxSim")
    assert (by_cosine, by_tokens, student) == ("cosine", "MaxSim", "S (student: talas)")
    assert others.startswith("S (teacher, student, untrained")


def test_what_a_method_is_known_to_cost_is_said():
    said = warnings(make_evaluation(), TRAININGS | {"leaf": training_entry(), "emo (paper)": training_entry()})
    assert len(said) == 2 and all("points below plain cosine in kdkit's own comparison" in words for words in said)
    assert said[0].startswith("leaf ended 0.4 points") and "compared with each other" in said[0]


def test_the_costs_are_those_that_were_measured():
    rows = {row["method"]: row for row in json.loads(MEASURED.read_text())["table"]}
    for method, (points, _) in COSTS.items():
        assert rows["cosine"]["average"] - rows[method]["average"] == pytest.approx(points, abs=0.06)
    below = {method for method, row in rows.items() if rows["cosine"]["average"] - row["average"] > 0.3}
    assert below - {"untrained"} <= set(COSTS)
