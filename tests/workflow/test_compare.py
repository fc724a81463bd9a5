"""Runs compared with each other: the same text or a reason, settings that differ, paired intervals, the page."""

import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from kdkit.cli import main
from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import dump_config
from kdkit.errors import UserError
from kdkit.evaluate.text_scores import write_scores
from kdkit.report.compare import comparison_text, comparison_verdict, write_comparison
from kdkit.report.display import show_comparison
from kdkit.runs.disk import write_text
from kdkit.runs.folder import Run
from kdkit.runs.open_run import plan_run
from kdkit.training.score import Score
from kdkit.workflow.several.compare import compare_runs
from tests.comparable import BITS, BYTES, DOCUMENTS, add_run
from tests.report.embeddings import finished_runs
from tests.report.test_page import make_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of a few lines, to be copied."""
    return make_run(tmp_path_factory.mktemp("finished")).path


@pytest.fixture
def add(tmp_path, finished):
    """Return what adds a run to the folder `runs`: `add("b", bits, **{"distill.temperature": 2.0})`."""
    return partial(add_run, tmp_path, finished)


@pytest.fixture
def runs(tmp_path):
    return str(tmp_path / "runs")


def test_a_constant_difference_is_its_own_interval_whatever_documents_are_drawn(add, runs):
    add("a"), add("b", BITS - 0.1)
    entry = compare_runs(["a", "b"], runs)["runs"][1]
    assert entry["student"]["difference"] == pytest.approx(0.1)
    assert entry["student"]["interval_95"] == pytest.approx([0.1, 0.1], abs=1e-6)
    assert entry["baseline"]["difference"] == 0 and entry["baseline"]["interval_95"] == pytest.approx([0, 0], abs=1e-9)
    assert entry["over"] == f"{DOCUMENTS} documents"


@pytest.mark.parametrize(
    ("change", "words"),
    [(-0.1, "better (+0.100"), (0.1, "worse (-0.100"), (np.tile([0.1, -0.1], 6), "too close to tell (")],
)
def test_the_words_follow_the_interval(add, runs, change, words):
    add("a"), add("b", BITS + change)
    assert f"B (b) against A (a): {words}" in comparison_verdict(compare_runs(["a", "b"], runs))


def test_runs_of_few_steps_get_no_verdict(add, runs):
    add("a")
    run = add("b", BITS - 0.1)
    evaluation = run.read_json("evaluation.json")
    evaluation["models"]["student"]["training"]["steps"] = 12
    run.write_json("evaluation.json", evaluation)
    assert "too short to tell (B: 12 steps" in comparison_verdict(compare_runs(["a", "b"], runs))


def test_only_settings_that_differ_are_listed(add, runs):
    add("a"), add("b", **{"distill.temperature": 4.0, "report.title": "mine", "cache_dir": "elsewhere"})
    assert compare_runs(["a", "b"], runs)["settings"] == {"distill.temperature": [1.0, 4.0]}


def test_a_run_of_other_data_is_marked_and_left_out(add, runs):
    add("a"), add("b")
    other = add("c", **{"data.subset_size": 7})
    manifest = other.read_json("data/manifest.json")
    other.write_json("data/manifest.json", manifest | {"corpus": manifest["corpus"] | {"fingerprint": "beef"}})
    comparison = compare_runs(["a", "c", "b"], runs)
    assert [entry["name"] for entry in comparison["runs"]] == ["a", "b"]
    assert comparison["notes"][0]["reason"] == "not comparable: other data (data.subset_size 7 against None)"
    with pytest.raises(UserError, match=r"expected two runs that can be compared, got 'a' alone \(c: not"):
        compare_runs(["a", "c"], runs)


def test_a_run_of_another_seed_is_sent_to_the_sweep(add, runs):
    add("a"), add("b", seed=1)
    with pytest.raises(UserError, match=r"seed 1 against 0; to compare over seeds: python -m kdkit sweep FILE"):
        compare_runs(["a", "b"], runs)


def test_a_run_that_read_less_of_the_held_out_text_is_not_comparable(add, runs):
    add("a")
    run = add("b", **{"evaluate.max_sequences": 3})
    few = Score(BITS[:3], BYTES[:3], 9, BITS[:3], BYTES[:3])
    write_scores(run, {"student": few, "baseline": few})
    with pytest.raises(UserError, match=r"another held-out text.*evaluate\.max_sequences 3 against"):
        compare_runs(["a", "b"], runs)


def test_a_misspelt_name_is_answered_with_the_nearest_first(add, runs):
    add("demo"), add("another"), add("demo-warm")
    with pytest.raises(
        UserError, match=r"got 'demo-wrm'; did you mean 'demo-warm'\? runs there: demo-warm, another, demo"
    ):
        compare_runs(["demo", "demo-wrm"], runs)


def test_a_folder_without_runs_is_said(tmp_path):
    with pytest.raises(UserError, match="no run there; name another folder: --runs-dir FOLDER"):
        compare_runs(["a", "b"], tmp_path)


@pytest.mark.parametrize("names", [["a"], [], "ab", ["a", "a"], [f"r{i}" for i in range(27)]])
def test_too_few_too_many_and_repeated_names_are_refused(add, runs, names):
    add("a")
    with pytest.raises(UserError, match=r"compare: expected (at least two|every run once|at most 26)"):
        compare_runs(names, runs)


@pytest.mark.parametrize(("missing", "why"), [("student", "no student yet"), ("evaluation.json", "not evaluated yet")])
def test_an_unfinished_run_is_a_line_with_a_command_that_opens_it(add, runs, missing, why):
    add("a"), add("b")
    run = add("c")
    shutil.rmtree(run.path / missing) if missing == "student" else (run.path / missing).unlink()
    note = compare_runs(["a", "b", "c"], runs)["notes"][0]
    assert note["reason"] == why
    *words, config, _, name, _, folder = shlex.split(note["command"])
    assert words == ["python", "-m", "kdkit", "run"] and plan_run(config, [], name, folder)[1].path == run.path


def test_a_stopped_run_is_gone_on_with(add, runs):
    add("a"), add("b")
    run = add("c")
    shutil.rmtree(run.path / "student")
    run.set_status("03_distill", state="interrupted")
    assert compare_runs(["a", "b", "c"], runs)["notes"][0]["command"].endswith("--resume")


def test_a_run_is_found_by_its_path_too(add, runs, tmp_path):
    add("a"), add("b")
    shutil.move(tmp_path / "runs" / "b", tmp_path / "apart")
    assert compare_runs(["a", str(tmp_path / "apart")], runs)["runs"][1]["name"] == "apart"
    with pytest.raises(UserError, match="expected every run once"):
        compare_runs(["a", str(tmp_path / "runs" / "a")], runs)


def test_runs_of_one_name_in_two_folders_are_two_runs(add, runs, tmp_path):
    add("a")
    other = add("b", **{"distill.temperature": 4.0})
    shutil.copytree(other.path, tmp_path / "elsewhere" / "a")
    comparison = compare_runs(["a", str(tmp_path / "elsewhere" / "a")], runs)
    assert comparison["settings"] == {"distill.temperature": [1.0, 4.0]}


def test_language_and_embedding_models_are_not_mixed(add, runs):
    add("a")
    write_text(add("b").path / "config.yaml", dump_config(EmbeddingConfig(method="talas")))
    with pytest.raises(UserError, match=r"runs of one kind, got language models \(a\) and embedding models \(b\)"):
        compare_runs(["a", "b"], runs)


def test_old_runs_are_compared_without_intervals_and_a_command_gives_them(tmp_path, runs):
    for name, temperature in (("then", 1.0), ("now", 2.0)):
        shutil.copytree(ROOT / "tests" / "old" / "smoke", tmp_path / "runs" / name)
        (tmp_path / "runs" / name / "student").mkdir()
        config = tmp_path / "runs" / name / "config.yaml"
        values = yaml.safe_load(config.read_text())
        values["distill"]["temperature"] = temperature
        config.write_text(yaml.safe_dump(values))
    comparison = compare_runs(["then", "now"], runs)
    assert comparison["runs"][1]["student"]["interval_95"] is None
    assert comparison["settings"] == {"distill.temperature": [1.0, 2.0]}
    assert "--name now" in comparison["notes"][1]["command"] and comparison["notes"][1]["command"].endswith("--only 04")
    assert "without an interval" in comparison_text(comparison) or "too short to tell" in comparison_text(comparison)


def test_lines_fit_a_terminal(add, runs):
    long = ["reference", *("run-" + "name-" * 15 + str(place) for place in range(3))]
    for place, name in enumerate(long):
        add(name, BITS - place / 10, **{"distill.temperature": 1.0 + place})
    lines = comparison_text(compare_runs(long, runs)).splitlines()
    assert max(len(line) for line in lines) <= 100
    assert any(re.fullmatch(r"distill\.temperature +1\.0 +2\.0 +3\.0 +4\.0", line) for line in lines)


def test_the_page_needs_no_other_file_and_names_no_folder(add, runs, tmp_path):
    add("a"), add("b", BITS - 0.1, **{"teacher.path": str(tmp_path / "models" / "big")})
    page = write_comparison(compare_runs(["a", "b"], runs), tmp_path / "runs" / "compare.html").read_text()
    loads = re.findall(r'src="([^"]*)"', page)
    assert len(loads) == 1 and loads[0].startswith("data:image/png;base64,")
    assert str(tmp_path) not in page and "\u2026/big" in page
    assert "<strong>1.400</strong>" in page and "+0.100 to +0.100" in page


def test_a_notebook_keeps_the_comparison_inside_it(add, runs, tmp_path):
    add("a"), add("b", BITS - 0.1, **{"distill.temperature": 2})
    shown = show_comparison(compare_runs(["a", "b"], runs)).data
    assert "src='data:image/png;base64," in shown and "<strong>1.400</strong>" in shown
    assert "distill.temperature" in shown and str(tmp_path) not in shown and "<iframe" not in shown


def test_the_command_prints_a_table_and_where_the_page_is(add, runs, capsys):
    add("a"), add("b", BITS - 0.1)
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "a", "b", "--runs-dir", runs])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0 and "B  b" in printed
    assert printed.splitlines()[-1] == f"page: {Path(runs) / 'compare.html'}"
    assert (Path(runs) / "compare.html").is_file()


def test_a_mistake_is_one_line_and_exit_code_2(add, runs, capsys):
    add("a")
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "a", "--runs-dir", runs])
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_comparing_loads_no_torch():
    code = (
        "import sys, kdkit.workflow.several.compare; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def embedding_run(folder, name, average=79.0, shift=0.0, rows=1_379):
    """Make a finished embedding run whose student has this average, and resampled scores `shift` above those of 0."""
    made = finished_runs.make_run(folder / "made" / name)
    run = Run(folder / "runs" / name, folder)
    shutil.copytree(made.path, run.path)
    evaluation = finished_runs.make_evaluation({"talas": average})
    evaluation["tasks"]["MRPC"]["rows"] = rows
    run.write_json("evaluation.json", evaluation)
    draws = np.random.default_rng(0).normal(75, 1, 200) + shift
    run.write_json("scores.json", {"seed": 0, "tasks": dict.fromkeys(finished_runs.TASKS, draws.tolist())})
    (run.path / "student").mkdir(exist_ok=True)
    return run


def test_embedding_runs_are_compared_in_pairs_of_resamples(tmp_path, runs):
    embedding_run(tmp_path, "a"), embedding_run(tmp_path, "b", 80.0, shift=1.0)
    comparison = compare_runs(["a", "b"], runs)
    entry = comparison["runs"][1]
    assert entry["difference"] == pytest.approx(1.0) and entry["difference_interval_95"] == pytest.approx([1.0, 1.0])
    assert "B (b) against A (a): better (+1.00 points" in comparison_text(comparison)
    page = write_comparison(comparison, tmp_path / "runs" / "compare.html").read_text()
    assert "<strong>80.00 \u00b1 1.0</strong>" in page


def test_embedding_runs_on_other_rows_are_not_comparable(tmp_path, runs):
    embedding_run(tmp_path, "a"), embedding_run(tmp_path, "b", rows=7)
    with pytest.raises(UserError, match="not comparable: another MRPC: rows 7 against 1379"):
        compare_runs(["a", "b"], runs)


def with_answers(run, rouge, prompts=("a", "b", "c")):
    """Put a student's answers into the evaluation of a run."""
    evaluation = run.read_json("evaluation.json")
    models = {"student": {"rouge_l": {"mean": float(np.mean(rouge)), "interval_95": None}}}
    facts = {"num_prompts": len(rouge), "prompts": list(prompts), "rouge_l": {"student": rouge}, "models": models}
    run.write_json("evaluation.json", evaluation | {"answers": facts})


def test_answers_are_compared_prompt_by_prompt(add, runs):
    for name, rouge in {"one": [0.1, 0.5, 0.3], "two": [0.2, 0.7, 0.4]}.items():
        with_answers(add(name), rouge)
    with_answers(add("three"), [0.9, 0.9, 0.9], ("a", "b", "other"))
    entries = compare_runs(["one", "two", "three"], runs)["runs"]
    found = [entry["answers"] for entry in entries]
    assert [each["rouge_l"] for each in found] == pytest.approx([0.3, 0.4333333, 0.9])
    assert found[0]["difference"] is None and found[2]["difference"] is None
    assert found[1]["difference"] == pytest.approx(0.4 / 3)
    low, high = found[1]["interval_95"]
    assert low < 0.4 / 3 < high and high - low == pytest.approx(2 * 4.303 * 0.05774 / 3**0.5, rel=1e-3)
    text = comparison_text(compare_runs(["one", "two"], runs))
    assert "answers of the students to held-out prompts" in text and "+0.133" in text


def test_runs_without_answers_are_compared_as_ever(add, runs):
    add("one"), add("two")
    assert "ROUGE" not in comparison_text(compare_runs(["one", "two"], runs))
