"""What a page says to a reader who has seen no notebook: true of the run, and of this run only."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure

from kdkit.config.language import Config, load_config
from kdkit.report.page import write_report
from kdkit.report.render import TEMPLATES
from kdkit.report.story import beside
from kdkit.report.story.contents import anchored, contents
from kdkit.report.story.limits import language_limits
from kdkit.report.story.machine import machine_table
from kdkit.report.story.result import cost_sentence, headline, split_costs, stage_table, twin_table
from kdkit.report.story.settings import changed_settings
from kdkit.runs.curves import LABELS
from tests.evaluate.sweeps.test_effects import make_grid
from tests.report.test_page import make_evaluation, make_run

VOID = {"meta", "img", "br", "hr", "input", "link"}
MANIFEST = {"corpus": {"source": "python-docs", "fingerprint": "f00d", "evaluation_documents": 500}}


class Balance(HTMLParser):
    """Remembers which elements are open, and the ids and links of all."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.ids, self.links, self.pictures = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        self.pictures += [attributes] if tag == "img" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append((tag, self.getpos()))


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    """Draw pictures without rendering them."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: path.write_bytes(b"not rendered"))


@pytest.fixture
def run(tmp_path):
    """Make a finished run."""
    return make_run(tmp_path / "secret")


def parsed(page):
    found = Balance()
    found.feed(page.read_text())
    return found


def add_costs(run):
    """Note in the run what its trainings cost, the teacher's apart."""
    items = [("teacher, trained here", 80.0, ""), ("student", 20.0, ""), ("teacher's answers", 5.0, "student")]
    items.append(("baseline", 10.0, ""))
    costs = [{"item": item, "seconds": value, "tokens": 7, "part_of": part} for item, value, part in items]
    evaluation = run.read_json("evaluation.json") | {"costs": costs}
    run.write_json("evaluation.json", evaluation)
    return evaluation


def test_every_element_is_closed_and_every_link_leads_somewhere(run):
    add_costs(run)
    page = parsed(write_report(run))
    assert not page.open and not page.wrong
    inner = [link[1:] for link in page.links if link.startswith("#")]
    assert len(inner) >= 10 and set(inner) == set(page.ids) and len(page.ids) == len(set(page.ids))
    assert all(link.startswith("https://arxiv.org/abs/") for link in page.links if not link.startswith("#"))


def test_a_reader_finds_what_was_done_and_what_it_is_worth(run):
    evaluation = add_costs(run)
    text = write_report(run).read_text()
    headings = re.findall(r"<h2 id=[^>]+>(.*?)</h2>", text)
    wanted = ["How to read this", "What was done", "Result against the same student without a teacher", "What it cost"]
    assert [heading for heading in headings if heading in wanted] == wanted
    assert headings[-3:] == ["What this run cannot say", "How to repeat it", "Sources"]
    for model in evaluation["models"].values():
        assert f"{model['bits_per_byte']:.3f}" in text
    for found in evaluation["differences"].values():
        assert f"{found['bits_per_byte']:+.3f}" in text
        assert "{:+.3f} to {:+.3f}".format(*found["interval_95"]) in text
    assert "loss = 0.5 \u00b7 CE + 0.5 \u00b7 KD" in text and "@misc{hinton2015distilling" in text
    assert '<meta name="description" content="Distillation beat the baseline' in text


def test_the_markdown_twin_says_the_same(run):
    add_costs(run)
    page, twin = write_report(run).read_text(), (run.path / "report.md").read_text()
    on_page = set(re.findall(r"<h2 id=[^>]+>(.*?)</h2>", page))
    assert on_page == set(re.findall(r"(?m)^## (.*)$", twin))
    for sentence in (
        "One seed (0) was run.",
        "loss = 0.5",
        "@misc{hinton2015distilling",
        "What was done",
        "Gap closed",
    ):
        assert sentence in page and sentence in twin


def test_every_picture_is_described_and_explained(run):
    page = write_report(run)
    pictures = parsed(page).pictures
    assert len(pictures) == 6 and all(len(picture["alt"]) > 25 for picture in pictures)
    assert page.read_text().count("<figcaption>") == 6
    curves = next(picture["alt"] for picture in pictures if picture["alt"].startswith("Curves"))
    assert "student (distilled) from 2.800 at step 2 to 2.600 at step 4" in curves


def test_neither_the_run_nor_the_home_nor_a_model_is_named_by_its_folder(run):
    values = yaml.safe_load((run.path / "config.yaml").read_text())
    values["teacher"]["path"] = "/mnt/models/big-teacher"
    (run.path / "config.yaml").write_text(yaml.safe_dump(values))
    page, twin = write_report(run).read_text(), (run.path / "report.md").read_text()
    for text in (page, twin):
        assert "big-teacher: Qwen3MoeForCausalLM" in text
        assert not any(folder in text for folder in (str(run.path.parents[1]), str(Path.home()) + "/", "/mnt/models"))
    assert "/mnt" not in page


def test_a_relative_folder_of_runs_does_not_hide_words(run, monkeypatch):
    monkeypatch.chdir(run.path.parent)
    text = write_report(type(run)(Path("tiny"), run.cache_path)).read_text()
    assert "<h1>Distillation run tiny</h1>" in text and "results/tiny/config.yaml --name tiny-again" in text


def test_the_student_stands_beside_every_baseline_with_its_interval():
    evaluation = make_evaluation(equal_time=1.4)
    evaluation["differences"]["baseline"] |= {"saving": 0.25, "gap_closed": 0.5, "gap_closed_interval_95": [0.4, 0.6]}
    rows = twin_table(evaluation)[1]
    expected = [
        LABELS["baseline"],
        "100",
        "2.5",
        "2.000",
        "+0.500",
        "+0.490 to +0.510",
        "25.0%",
        "0.50",
        "0.40 to 0.60",
    ]
    assert rows[0] == expected
    assert rows[1][:6] == [LABELS["baseline_equal_time"], "1,234", "2.5", "1.400", "-0.100", "-0.110 to -0.090"]
    tiles = {name: value for name, value, _ in headline(evaluation)}
    assert tiles["better than without teacher, at equal time\u00a0\u2191"] == "-0.100"


def test_the_teachers_cost_stands_apart(run):
    evaluation = add_costs(run)
    mine, his = split_costs(evaluation)
    assert [row[0] for row in his[1]] == ["teacher, trained here"]
    assert [row[0] for row in mine[1]] == ["student (distilled)", "in it: teacher's answers", "baseline, equal steps"]
    words = cost_sentence(evaluation)
    assert "20.0 seconds, 2.0 times what its baseline took; 5.0 of them (25%)" in words
    assert "Making the teacher took 80.0 seconds; no comparison on this page counts them." in words
    assert cost_sentence(make_evaluation()) == ""


def test_stages_by_the_clock_are_added_up():
    status = {"01_data": {"seconds": 9.1}, "03_distill": {"seconds": 100}, "state": "finished"}
    assert [row[1] for row in stage_table(status)[1]] == ["9", "100", "109"]
    assert stage_table({})[1] == []


def limits_of(**changes):
    """Return the limits of a usual run that differs in these figures."""
    evaluation = make_evaluation(equal_time=1.6)
    evaluation["evaluated"] |= {"bytes": 2_000_000}
    config = Config(teacher={"path": "gpt2"}).model_dump()
    config["distill"] |= changes.pop("distill", {})
    evaluation["models"]["baseline_equal_time"]["training"]["seconds"] = changes.pop("seconds", 2.5)
    return " ".join(language_limits(config, evaluation | changes, MANIFEST, changes.pop("sweeps", [])))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"late_gain": 0.02}, "still learning: it gained 0.020 bits per byte in the last fifth of its 100 steps"),
        ({"late_gain": 0.9}, "No verdict on distillation: the student still gained 0.900"),
        ({"distill": {"start_from_teacher": True}}, "the difference is that of start and answers together"),
        ({"seconds": 1.0}, "was given steps for the student's 2.5 seconds and took 1.0"),
        ({"evaluated": {"bytes": 5_000, "hardware": "CPU"}}, "5,000 bytes of 500 documents, which is little"),
        (
            {"evaluated": {"bytes": 5, "hardware": "CPU", "intervals_over": "blocks of 3 windows"}},
            "The intervals are over blocks of 3 windows",
        ),
    ],
)
def test_a_limit_is_told_where_the_run_has_it_and_nowhere_else(changes, words):
    assert words in limits_of(**changes)
    assert words not in limits_of()


def test_what_was_measured_is_no_limit():
    assert "no task" in limits_of() and "no task" not in limits_of(answers={"rouge_l": {}})
    assert "No baseline was trained for the student's time" not in limits_of()
    evaluation = make_evaluation()
    limits = language_limits(Config().model_dump(), evaluation, MANIFEST, ["abl"])
    assert any("at equal steps the student had 2.5 seconds" in sentence for sentence in limits)
    assert any("More seeds are in abl." in sentence for sentence in limits)


def test_a_grid_on_the_same_text_and_teacher_says_what_its_settings_do_and_lists_few_variants(run, monkeypatch):
    folder = run.path.parent / "grid"
    (folder / "a-seed-0").mkdir(parents=True)
    (folder / "a-seed-0" / "config.yaml").write_text((run.path / "config.yaml").read_text())
    (folder / "sweep.json").write_text(json.dumps({"name": "grid"} | make_grid()))
    section = write_report(run).read_text().partition("Sweep grid")[2].partition("</section>")[0]
    assert "<li>distill.temperature: 2 is worse than 1 by 0.050" in section and section.count("<tr>") == 7
    assert "3 seeds of 500 steps, where this run had 100" in section and "stay unseen" in section
    monkeypatch.setattr(beside, "MOST_VARIANTS", 5)
    section = write_report(run).read_text().partition("Sweep grid")[2].partition("</section>")[0]
    assert "<tr>" not in section and "0.050" in section
    assert "distill.temperature: 2 is worse than 1 by 0.050" in (run.path / "report.md").read_text()


def test_runs_on_the_same_text_stand_beside_this_one_with_what_differs(run):
    other = make_run(run.path.parents[1])  # the same place: its files are moved below
    assert "Ablations" not in write_report(run).read_text()
    hotter = run.path.parent / "hotter"
    other.path.rename(hotter)
    make_run(run.path.parents[1])
    values = yaml.safe_load((hotter / "config.yaml").read_text())
    values["distill"]["temperature"] = 2.0
    (hotter / "config.yaml").write_text(yaml.safe_dump(values))
    evaluation = json.loads((hotter / "evaluation.json").read_text())
    evaluation["models"]["student"]["bits_per_byte"] = 1.625
    (hotter / "evaluation.json").write_text(json.dumps(evaluation))
    (run.path.parent / "broken").mkdir()
    (run.path.parent / "broken" / "evaluation.json").write_text("{")
    text = write_report(run).read_text()
    row = re.search(r"<tr><td>hotter</td>.*?</tr>", text)[0]
    assert re.findall("<td>(.*?)</td>", row) == ["hotter", "distill.temperature=2.0", "100", "1.625", "+0.125", "0.50"]


def test_the_settings_on_the_page_are_enough_to_repeat_the_run(tmp_path):
    loss = {"name": "jsd", "teacher_weight": 0.1}
    config = Config(distill={"loss": loss}, train={"max_steps": 7}, data={"subset_size": 9}, seed=3)
    changed = changed_settings(config.model_dump())
    assert changed["train"] == {"max_steps": 7} and changed["data"] == {"subset_size": 9}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(changed))
    assert load_config(tmp_path / "again.yaml") == config


def test_a_machine_is_told_by_its_kind_alone():
    environment = {
        "platform": "Linux-6.1.2-private-host-x86_64-with-glibc2.36",
        "python": "3.11",
        "packages": {"a": "1"},
    }
    table = dict(machine_table(environment, "CPU: fp32")[1])
    assert table == {"machine": "Linux, x86_64", "measured on": "CPU: fp32", "Python": "3.11", "packages": "a 1"}


def test_headings_get_anchors_of_their_own():
    body = anchored("<h2>What &amp; why?</h2><h2>What, why</h2><h2>\u2191</h2>")
    assert contents(body) == [("what-why", "What & why?"), ("what-why-2", "What, why"), ("section", "\u2191")]


def luminance(colour):
    """Return the relative luminance of `#rrggbb` (WCAG 2.2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_all_words_can_be_told_from_their_ground_by_day_by_night_and_on_paper():
    style = (TEMPLATES / "style.css").read_text()
    palettes = [
        {name: code if len(code) == 7 else "#" + "".join(2 * digit for digit in code[1:]) for name, code in found}
        for found in (re.findall(r"--(\w+): (#\w+)", block) for block in re.findall(r":root \{(.*?)\}", style, re.S))
    ]
    assert len(palettes) == 3
    for palette in palettes:
        for words in ("text", "muted", "accent", "warn"):
            for ground in ("page", "panel"):
                dark, light = sorted(luminance(palette[name]) for name in (words, ground))
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (words, ground, palette)
