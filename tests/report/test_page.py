"""The page, its Markdown twin, the model card and their words, from a run folder made by hand."""

import base64
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure

from kdkit.config.language import Config, dump_config
from kdkit.errors import UserError
from kdkit.machine.tracking import keys
from kdkit.report.display import show_picture
from kdkit.report.figures import draw_expert_load
from kdkit.report.page import write_page, write_report
from kdkit.report.story.result import headline, twin_table
from kdkit.report.tables import (
    comparison_table,
    compression_table,
    continuations_table,
    equal_time_table,
    language_verdict,
    routing_table,
    to_markdown,
)
from kdkit.runs.disk import write_text
from kdkit.runs.folder import Run

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = '<script>alert(1)</script> | <!-- a\n\nline & "more"'
LOADING_ATTRIBUTES = {"src", "srcset", "data", "poster", "action"}

EXPERTS = {
    "layers": [0, 1],
    "num_experts": 4,
    "texts": ["Once $x_1$", "upon"],
    "shown": {
        "tokens": ["Once", " $x_1$", "\n"],
        "experts": [[[0, 1, 2], [3, 2, 1], [1, 0, 3]], [[2, 0, 1], [2, 1, 0], [0, 3, 1]]],
        "entropy": [[1.9, 0.2, 0.0], [1.0, 2.0, 0.5]],
        "position": 1,
        "predictions": [
            {"expert": None, "tokens": [" a", "$$"], "probabilities": [0.5, 0.25]},
            {"expert": 2, "tokens": [" b", "c"], "probabilities": [0.75, 0.125]},
        ],
    },
}
"""What teacher/experts.json holds of a text of three tokens; dollar signs are not formulas."""


def model_entry(bits_per_byte, steps=None):
    """Return what evaluation.json holds of one model, which was trained where steps are given."""
    training = {"training": {"steps": steps, "seconds": 2.5}} if steps else {}
    return training | {
        "perplexity": 2.0 ** (4 * bits_per_byte),
        "bits_per_byte": bits_per_byte,
        "parameters": 12_345,
        "size_bytes": 49_380,
        "tokens_per_second": 1_000.0,
        "bytes_per_second": 4_000.0,
        "peak_memory_bytes": 2_000_000,
    }


def difference(baseline, student, half_width=0.01):
    """Return a difference in bits per byte with an interval around it."""
    return {"bits_per_byte": (gain := baseline - student), "interval_95": [gain - half_width, gain + half_width]}


def make_evaluation(teacher=1.0, student=1.5, baseline=2.0, equal_time=None):
    """Return an evaluation.json with these bits per byte."""
    models = {
        "teacher": model_entry(teacher) | {"architecture": "Qwen3MoeForCausalLM", "parameters": 99_999},
        "student": model_entry(student, steps=100),
        "baseline": model_entry(baseline, steps=100),
    }
    differences = {"baseline": difference(baseline, student)}
    if equal_time is not None:
        models["baseline_equal_time"] = model_entry(equal_time, steps=1_234)
        differences["baseline_equal_time"] = difference(equal_time, student)
    kept = {"kl_to_teacher": 0.3, "top_k_overlap": 0.5, "top_1_agreement": 0.4, "positions": 100, "top_k": 5}
    kept |= {"attention_similarity": 0.75, "attention_windows": 16, "attention_layers": 2}
    return {
        "models": models,
        "retention": {name: kept for name in models if name != "teacher"},
        "compression": {"parameters": 8.0, "size": 8.0, "speed": 2.0},
        "gap_closed": (baseline - student) / (baseline - teacher) if teacher < baseline else None,
        "differences": differences,
        "evaluated": {"windows": 4, "bytes": 5_000, "hardware": "CPU: fp32"},
        "continuations": [{"prompt": "Once"} | {name: f"{name} wrote this" for name in models}],
    }


def make_run(folder):
    """Make a finished run of a few lines."""
    run = Run(folder / "results" / "tiny", folder / "cache")
    write_text(run.path / "config.yaml", dump_config(Config()))
    run.write_json("env.json", {"python": "3.11", "created": "2026-01-01T00:00:00Z"})
    run.write_json("evaluation.json", make_evaluation(equal_time=1.4))
    shares = {"same_token_share": 0.7, "same_prefix_share": 0.9, "num_bytes": 9_000}
    corpus = {"source": "python-docs", "fingerprint": "f00d", "train_documents": 9, "evaluation_documents": 2}
    sizes = {"common": 300, "student": 400, "teacher": 500}
    run.write_json("data/manifest.json", {"train": shares, "vocabulary": sizes, "corpus": corpus})
    load = [[0.5, 0.3, 0.1, 0.1], [0.0, 0.0, 0.0, 1.0]]
    probe = {"architecture": "Qwen3MoeForCausalLM", "parameters": 99_999, "bits_per_byte": 1.0, "expert_load": load}
    run.write_json("teacher/probe.json", probe)
    run.write_json("teacher/experts.json", EXPERTS)
    for phase in ("student", "baseline", "baseline_equal_time"):
        for step in (2, 4):
            point = {"phase": phase, "step": step, "seconds": step / 2}
            run.append_metrics(point | {"loss": 2.0, "ce_loss": 2.1, "kd_loss": 1.9, "grad_norm": 0.5})
            run.append_metrics(point | {"evaluation_bits_per_byte": 3.0 - step / 10})
    return run


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Make a finished run whose pictures are drawn but, to save seconds, not rendered."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: path.write_bytes(b"not rendered"))
    return make_run(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Write the page of a run once, with its real pictures."""
    return write_report(make_run(tmp_path_factory.mktemp("page")))


def set_title(run, title):
    """Put a heading of the user's into the run's configuration."""
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    config["report"]["title"] = title
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))


def write_hostile_continuations(run):
    """Let opening and models write what breaks a page that does not escape it."""
    evaluation = run.read_json("evaluation.json")
    evaluation["continuations"] = [dict.fromkeys(["prompt", *evaluation["models"]], HOSTILE)]
    run.write_json("evaluation.json", evaluation)
    return evaluation


def elements(page):
    """Return (tag, attributes) of every element of a page."""
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))
    parser.feed(page.read_text())
    return found


def test_the_page_needs_no_other_file(page):
    attributes = [item for _, of_element in elements(page) for item in of_element.items()]
    loads = [value for key, value in attributes if key in LOADING_ATTRIBUTES]
    assert loads and all(value.startswith("data:image/png;base64,") for value in loads)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in elements(page)}
    assert "@import" not in page.read_text() and "url(" not in page.read_text()


def test_the_page_holds_six_pictures_that_lie_beside_it_too(page):
    inside = {base64.b64decode(of["src"].partition(",")[2]) for tag, of in elements(page) if tag == "img"}
    assert inside == {path.read_bytes() for path in (page.parent / "figures").glob("*.png")}
    assert len(inside) == 6 and all(content.startswith(b"\x89PNG") for content in inside)


@pytest.mark.parametrize(("title", "heading"), [("My student", "My student"), ("", "Distillation run tiny")])
def test_the_page_shows_title_and_verdict(run, title, heading):
    set_title(run, title)
    text = write_report(run).read_text()
    assert f"<title>{heading}</title>" in text and f"<h1>{heading}</h1>" in text
    assert language_verdict(run.read_json("evaluation.json")) in text


def test_hostile_text_is_escaped_on_the_page(run):
    set_title(run, HOSTILE)
    write_hostile_continuations(run)
    page = write_report(run)
    assert not {"script", "b"} & {tag for tag, _ in elements(page)}
    assert page.read_text().count("&lt;script&gt;") >= len(["title", "heading", "opening"]) + 4


def test_hostile_text_stays_plain_text_in_its_cell_in_markdown(run):
    table = to_markdown(continuations_table(write_hostile_continuations(run), 4)).splitlines()
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in table] == [6, 6, 6]
    write_report(run)
    assert not re.search("<script|<b>|<!--", (run.path / "report.md").read_text())


def test_markdown_names_the_pictures_that_lie_beside_it(page):
    pictures = re.findall(r"!\[.*\]\((.*)\)", (page.parent / "report.md").read_text())
    assert len(pictures) == 6 and all((page.parent / picture).is_file() for picture in pictures)


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_the_command_that_repeats_the_run_names_its_configuration(run, name, monkeypatch):
    monkeypatch.chdir(run.path.parent.parent)
    write_report(run)
    config = re.search(r"python -m kdkit run (\S+)", (run.path / name).read_text())[1]
    assert Path(config).resolve() == run.path / "config.yaml"


def test_the_model_card_has_front_matter_and_the_facts(run):
    set_title(run, "My first student")
    write_report(run)
    _, front, body = (run.path / "student" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "text-generation"
    for fact in (
        "# My first student",
        "12,345",
        "99,999",
        "Qwen3MoeForCausalLM",
        "python-docs",
        "Distillation beat the baseline",
    ):
        assert fact in body


def test_a_dense_teacher_gives_no_expert_pictures(run):
    run.write_json("teacher/probe.json", run.read_json("teacher/probe.json") | {"expert_load": None})
    run.write_json("teacher/experts.json", {"missing": "This teacher is dense."})
    assert show_picture(draw_expert_load(run), otherwise="This one is dense.").data == "This one is dense."
    assert [tag for tag, _ in elements(write_report(run))].count("img") == 4
    assert not {"expert_load.png", "experts.png"} & {path.name for path in (run.path / "figures").iterdir()}


@pytest.mark.parametrize("name", ["evaluation.json", "data/manifest.json"])
def test_a_missing_file_is_named_with_the_command_that_makes_it(run, name):
    (run.path / name).unlink()
    with pytest.raises(UserError, match=rf"expected {name}.*python -m kdkit run .*config.yaml --name tiny"):
        write_report(run)


def test_the_page_alone_is_copied_nowhere(run, monkeypatch, capsys):
    run.write_json("wandb.json", {"mode": "online", "project": "mine", "copies": {}})
    monkeypatch.setattr(keys, "server_is_reachable", lambda: False)
    write_page(run)
    assert (run.path / "report.html").is_file() and "W&B" not in capsys.readouterr().out
    write_report(run)
    assert "report: not copied to W&B" in capsys.readouterr().out


def test_a_run_without_notebook_02_has_a_report_without_its_pictures(run):
    shutil.rmtree(run.path / "teacher")
    names = elements(write_report(run))
    assert [tag for tag, _ in names].count("img") == 4
    assert "Qwen3MoeForCausalLM" in (run.path / "student" / "README.md").read_text()


def test_an_evaluation_of_an_older_build_takes_the_teachers_name_from_its_probe(run):
    evaluation = run.read_json("evaluation.json")
    del evaluation["models"]["teacher"]["architecture"]
    run.write_json("evaluation.json", evaluation)
    write_report(run)
    assert "Qwen3MoeForCausalLM" in (run.path / "student" / "README.md").read_text()


@pytest.mark.parametrize(
    ("levels", "sentence"),
    [
        ((1.0, 1.5, 2.0), r"^Distillation beat the baseline: 1\.500 against 2\.000 bits per byte"),
        ((1.0, 1.5, 2.0), r"closed 0\.50 of the gap to the teacher \(1\.000\)"),
        ((1.0, 2.5, 2.0), r"^Distillation did not beat the baseline, it lost to it: 2\.500 against 2\.000"),
        ((1.0, 2.001, 2.0), r"^Too close to tell whether distillation helped: .* which includes no difference\."),
        ((2.5, 1.5, 2.0), r"The teacher \(2\.500\) is no better than the baseline, so there is no gap to close"),
    ],
)
def test_the_verdict_says_what_the_interval_says(levels, sentence):
    assert re.search(sentence, language_verdict(make_evaluation(*levels)))


@pytest.mark.parametrize(
    ("equal_time", "words"), [(1.6, "still better than it"), (1.4, "worse than it"), (1.5, "no different from it")]
)
def test_the_verdict_compares_at_equal_time(equal_time, words):
    sentence = language_verdict(make_evaluation(equal_time=equal_time)).partition("At equal wall time ")[2]
    assert "1,234 steps" in sentence and f"the student is {words}" in sentence


def test_without_an_equal_time_baseline_nothing_is_said_of_it():
    assert "equal wall time" not in language_verdict(make_evaluation())


def test_the_comparison_has_a_column_for_each_model_and_a_dash_where_nothing_was_measured():
    evaluation = make_evaluation()
    evaluation["models"]["student"]["peak_memory_bytes"] = None
    headings, rows = comparison_table(evaluation)
    table = {name: cells for name, *cells in rows}
    assert headings[1:] == ["teacher", "student (distilled)", "baseline, equal steps"]
    assert all(len(row) == 3 for row in table.values())
    assert table["peak memory, MB \u2193"] == ["2.0", "-", "2.0"]
    assert table["training steps"] == ["-", "100", "100"]
    assert table["KL to the teacher, nats \u2193"] == ["-", "0.300", "0.300"]
    assert table["attention like the teacher's \u2191"] == ["-", "0.750", "0.750"]


def test_attention_that_was_not_compared_is_a_dash():
    evaluation = make_evaluation()
    evaluation["retention"]["baseline"] = evaluation["retention"]["baseline"] | {"attention_similarity": None}
    rows = {name: cells for name, *cells in comparison_table(evaluation)[1]}
    assert rows["attention like the teacher's \u2191"] == ["-", "0.750", "-"]


def test_routings_are_shown_with_readable_numbers():
    probe = {"by_routing": [{"routing": "all", "perplexity": 12.3456, "bits_per_byte": 1.23456}]}
    assert routing_table(probe)[1] == [["all", "12.35", "1.235"]]
    assert routing_table({"by_routing": None})[1] == []


def test_report_loads_no_torch():
    code = "import json, sys, kdkit.report.page, kdkit.report.display; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "datasets"} & set(json.loads(result.stdout))


def test_scores_of_another_text_are_starred_and_no_gap_is_told():
    from kdkit.report.tables import comparison_table, language_verdict

    reason = "the teacher's tokenizer changes 22.4% of the text's bytes"
    models = {
        name: {"bits_per_byte": value, "not_comparable": why}
        for name, value, why in (("teacher", 1.6, reason), ("student", 2.4, None), ("baseline", 2.5, None))
    }
    for entry in models.values():
        entry |= dict.fromkeys(("perplexity", "parameters", "size_bytes", "tokens_per_second", "bytes_per_second")) | {
            "peak_memory_bytes": None
        }
    retention = {"student": {"top_k": 5, "kl_to_teacher": 0.1, "top_k_overlap": 0.2, "attention_similarity": 0.3}}
    differences = {"baseline": {"bits_per_byte": 0.1, "interval_95": [0.05, 0.15]}}
    evaluation = {"models": models, "retention": retention, "differences": differences, "gap_closed": None}
    evaluation["evaluated"] = {"windows": 9}
    assert comparison_table(evaluation)[1][0] == ["bits per byte \u2193", "1.600*", "2.400", "2.500"]
    verdict = language_verdict(evaluation)
    assert "(1.600*) is not comparable" in verdict and reason in verdict


def with_intervals(evaluation, gap_interval, over="documents"):
    """Add what an evaluation of today holds beside the figures of an old one."""
    evaluation["gap_closed_interval_95"] = gap_interval
    evaluation["gap"] = {"bits_per_byte": 1.0, "interval_95": [-0.1 if gap_interval is None else 0.9, 2.1]}
    evaluation["evaluated"] |= {"intervals_over": over, "interval_units": 11}
    evaluation["differences"]["baseline"] |= {"saving_interval_95": [0.2, 0.3]}
    return evaluation


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        (
            [0.4, 0.6],
            r"It closed 0\.50 of the gap to the teacher \(1\.000\) at equal steps, 95 % interval 0\.40 to 0\.60",
        ),
        ([-0.1, 0.6], r"That it closed any of the gap is not shown: 0\.50 .* 95 % interval -0\.10 to 0\.60"),
        ([-0.6, -0.4], r"It closed none of the gap: 0\.50 .* 95 % interval -0\.60 to -0\.40"),
        (None, r"baseline are level \(the teacher is better by \+1\.000, 95 % interval -0\.100 to \+2\.100\), so"),
    ],
)
def test_the_words_about_the_gap_follow_its_interval(interval, words):
    verdict = language_verdict(with_intervals(make_evaluation(), interval))
    assert re.search(words, verdict)
    assert "over 11 documents" in verdict and "25.0% (20.0% to 30.0%) fewer bits" in verdict


def test_no_share_is_told_where_teacher_and_baseline_are_level():
    evaluation = with_intervals(make_evaluation(teacher=1.999, student=1.9915), None)  # a share of 8.50
    assert evaluation["gap_closed"] == pytest.approx(8.5)
    evaluation["differences"]["baseline"] |= {"gap_closed": 8.5, "gap_closed_interval_95": None}
    told = [language_verdict(evaluation), str(headline(evaluation)), str(twin_table(evaluation))]
    assert all("level" in words and "8.50" not in words for words in told)


def test_a_verdict_says_when_documents_were_not_what_was_drawn():
    verdict = language_verdict(with_intervals(make_evaluation(), [0.4, 0.6], "blocks of 3 windows"))
    assert "over blocks of 3 windows, as documents are too few, too unequal or unknown" in verdict


def test_equal_time_is_told_in_two_rows():
    evaluation = make_evaluation(equal_time=1.4)
    assert [row[0] for row in equal_time_table(evaluation)[1]] == ["the teacher's answers counted"]
    evaluation["models"]["baseline_answers_reused"] = model_entry(1.6, steps=999)
    shares = {"gap_closed": 0.17, "gap_closed_interval_95": [0.1, 0.2]}
    evaluation["differences"]["baseline_answers_reused"] = difference(1.6, 1.5) | shares
    row = equal_time_table(evaluation)[1][1]
    assert row[1:] == ["999", "2.5", "1.600", "+0.100", "+0.090 to +0.110", "0.17", "+0.10 to +0.20"]
    assert re.search("used again.* 999 steps.* the student is still better than it", language_verdict(evaluation))


def test_compression_is_told_with_its_dtype_and_interval():
    evaluation = make_evaluation()
    evaluation["models"]["student"]["size_dtype"] = "float32"
    evaluation["compression"]["speed_interval_95"] = [1.8, 2.2]
    rows = compression_table(evaluation)[1]
    assert rows[1] == ["weights in float32, MB, times smaller \u2191", "8.0", "exact"]
    assert rows[2][1:] == ["2.0", "1.8 to 2.2"]
