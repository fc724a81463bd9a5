"""The playground of 04 with tiny models: a click asks those that are ticked, text is escaped, errors are one line."""

import logging

import pytest

from kdkit.evaluate.playground import open_playground
from kdkit.report.explore import playground as shown_by
from kdkit.report.explore.playground import answer_html, answers_html, playground, show_playground
from kdkit.teachers.prepare import Teacher
from tests.tiny import make_config, make_data, make_llama, make_run, make_session, make_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A run with two untrained students and its playground."""
    folder = tmp_path_factory.mktemp("playground")
    config = make_config(folder, distill={"equal_time_baseline": False})
    data, run = make_data(config, folder), make_run(folder)
    for seed, name in enumerate(("student", "baseline")):
        make_llama(len(data.student_tokenizer), seed).save_pretrained(run.path / name)
    teacher = Teacher(make_teacher(data).model, "tiny", True, data.teacher_tokenizer)
    return run, open_playground(make_session(config, run), data, teacher).ask


class Shown:
    """The widgets by what they are for, as a person finds them."""

    def __init__(self, facts, ask):
        self.prompt, self.temperature, self.top_p, self.most, self.seed, boxes, row, self.message, cards = playground(
            facts, ask
        ).children
        (self.button,) = row.children
        self.boxes = dict(zip(facts["answers"], boxes.children, strict=True))
        self.cards = dict(zip(facts["answers"], cards.children, strict=True))

    def text(self, name):
        """Return what stands in the card of a model."""
        return self.cards[name].children[1].value


@pytest.fixture
def shown(opened):
    run, ask = opened
    return Shown(run.read_json("playground.json"), ask)


def test_a_click_asks_every_ticked_model_with_the_options_that_are_set(opened, shown):
    _, ask = opened
    shown.boxes["baseline"].value = False
    before = shown.text("baseline")
    shown.prompt.value, shown.temperature.value, shown.top_p.value = "the quick", 0.5, 0.8
    shown.most.value, shown.seed.value = 5, 7
    shown.button.click()
    options = {"temperature": 0.5, "top_p": 0.8, "max_new_tokens": 5, "seed": 7}
    for name in ("teacher", "student"):
        answer = ask(name, "the quick", **options)
        expected = answer_html(answer).split("</div>")[0]
        assert shown.text(name).startswith(f"{expected}</div>")
        assert f"{answer['bits_per_byte']:.3f} bits per byte" in shown.text(name)
        assert "tokens per second" in shown.text(name)
    assert shown.text("baseline") == before and shown.cards["baseline"].layout.display == "none"
    assert shown.message.value == "" and not shown.button.disabled


def test_the_same_seed_draws_the_same_text_and_another_one_another(shown):
    texts = []
    for seed in (1, 2, 1):
        shown.seed.value = seed
        shown.button.click()
        texts.append(shown.text("student").split("</div>")[0])
    assert texts[0] == texts[2] != texts[1]


def test_no_model_and_no_prompt_are_answered_in_one_line(shown):
    shown.prompt.value = " "
    shown.button.click()
    assert "prompt: expected text" in shown.text("student") and shown.message.value == ""
    for box in shown.boxes.values():
        box.value = False
    shown.button.click()
    assert "models: expected at least one" in shown.message.value


def test_a_bug_in_one_model_is_a_line_in_its_card_and_a_trace_in_the_log_and_the_others_answer(opened, caplog):
    run, ask = opened

    def failing(name, prompt, **options):
        if name == "teacher":
            raise ValueError(f"{SCRIPT}\nmore")
        return ask(name, prompt, **options)

    shown = Shown(run.read_json("playground.json"), failing)
    with caplog.at_level(logging.ERROR):
        shown.button.click()
    assert "ValueError: &lt;script&gt;" in shown.text("teacher") and "more" not in shown.text("teacher")
    assert "tokens per second" in shown.text("student")
    assert "Traceback" in caplog.text and not shown.button.disabled


def test_what_models_and_people_write_is_escaped(opened):
    run, _ = opened
    facts = run.read_json("playground.json")
    facts["prompt"] = SCRIPT
    facts["answers"]["student"]["text"] = SCRIPT
    facts["answers"]["baseline"] = {"problem": SCRIPT}
    shown = Shown(facts, print)
    for written in (answers_html(facts), shown.text("student"), shown.text("baseline")):
        assert "<script" not in written and "&lt;script&gt;" in written


def test_nobody_watching_sees_a_table_of_all_models(opened, monkeypatch):
    run, ask = opened
    facts = run.read_json("playground.json")
    still = show_playground(run, ask).data
    assert facts["prompt"] in still
    assert all(label in still for label in ("teacher", "student (distilled)", "baseline, equal steps"))
    assert f"{facts['answers']['student']['bits_per_byte']:.3f}" in still
    monkeypatch.setattr(shown_by, "is_watched", lambda: True)
    bundle = show_playground(run, ask)._repr_mimebundle_()
    assert bundle["text/html"] == still and "application/vnd.jupyter.widget-view+json" in bundle
