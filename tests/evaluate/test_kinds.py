"""Bits per byte kind by kind."""

import json
import math

import numpy as np
import pytest

from kdkit.config.language import dump_config
from kdkit.data.prepare import prepare_data
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import view_of
from kdkit.distill.train import distill, train_baseline
from kdkit.evaluate.evaluation import evaluate_run
from kdkit.evaluate.kinds import KINDS_FILE, MEAN, compare_kinds, describe_teachers, evaluate_students, scores_of_kind
from kdkit.report.page import write_report
from kdkit.report.teachers import draw_kinds, draw_shares, kinds_table, label_of, shares_table
from kdkit.runs.folder import describe_environment
from kdkit.teachers.prepare import prepare_teacher
from kdkit.training.score import Score
from tests.committees import committee_config
from tests.tiny import make_plan, make_run, make_session

LN2 = math.log(2)


def score(nats, sizes):
    nats, sizes = np.array(nats, float) * LN2, np.array(sizes)
    return Score(nats, sizes, 10, nats, sizes)


KINDS = np.array([0, 1, 0, 1, 1])
SCORES = {
    "student": score([2, 6, 2, 6, 6], [2, 3, 2, 3, 3]),
    "baseline": score([4, 3, 4, 3, 3], [2, 3, 2, 3, 3]),
}


def test_scores_of_a_kind_are_those_of_its_documents():
    assert scores_of_kind(SCORES, KINDS, 0)["student"].bits_per_byte == pytest.approx(1.0)
    assert scores_of_kind(SCORES, KINDS, 1)["student"].bits_per_byte == pytest.approx(2.0)


def test_the_mean_weighs_every_kind_alike():
    compared = compare_kinds(SCORES, KINDS, ("land", "sea", "sky"), "student", 0)
    assert list(compared) == ["land", "sea", MEAN]
    assert compared["land"]["baseline"]["difference"] == pytest.approx(1.0)
    assert compared["sea"]["baseline"]["difference"] == pytest.approx(-1.0)
    assert compared[MEAN]["student"]["bits_per_byte"] == pytest.approx(1.5)
    assert compared[MEAN]["baseline"]["difference"] == pytest.approx(0.0)
    low, high = compared["land"]["baseline"]["difference_interval_95"]
    assert low == pytest.approx(1.0) and high == pytest.approx(1.0)  # all documents are alike


def test_one_kind_has_no_mean():
    assert list(compare_kinds(SCORES, np.zeros(5, int), ("land",), "student", 0)) == ["land"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a run of two teachers with its student, baseline and the students of one teacher each."""
    place = tmp_path_factory.mktemp("kinds")
    config = committee_config(place, {"combine": "select"}, distill={"equal_time_baseline": False})
    run = make_run(place)
    (run.path / "config.yaml").write_text(dump_config(config))
    run.write_json("env.json", describe_environment())
    plan = make_plan(config, run, prepare_data(make_session(config, run)))
    distill(plan, open_teacher(plan))
    train_baseline(plan)
    for member in plan.members:
        distill(member.plan, open_teacher(member.plan))
    return plan


def test_a_run_is_evaluated_with_all_of_its_teachers_kind_by_kind(trained):
    session, data = trained.session, trained.data
    evaluation = evaluate_run(session, data, prepare_teacher(*view_of(session, data)))
    by_kind = evaluation["by_kind"]
    assert list(by_kind) == ["land", "sea", MEAN]
    assert json.loads(json.dumps(by_kind)) == session.run.read_json(KINDS_FILE)
    assert set(by_kind["sea"]) == {"farmer", "sailor", "student", "baseline"}
    sizes = data.manifest["kinds"]
    total = sum(by_kind[kind]["student"]["bits_per_byte"] * sizes[kind]["evaluation_characters"] for kind in sizes)
    mean = total / sum(facts["evaluation_characters"] for facts in sizes.values())
    assert mean == pytest.approx(evaluation["models"]["student"]["bits_per_byte"], rel=1e-3)
    page = write_report(session.run).read_text()
    assert "Kinds of text" in page and "Who taught what" in page and "teacher sailor" in page


def test_the_students_of_single_teachers_stand_beside_that_of_all(trained):
    by_kind = evaluate_students(trained.session, trained.data)
    assert {"only farmer", "only sailor", "student", "baseline", "farmer", "sailor"} == set(by_kind["land"])
    assert label_of("only farmer") == "student of farmer alone" and label_of("sailor") == "teacher sailor"
    run = trained.session.run
    headings, rows = kinds_table(run)
    assert headings[1:] == ["land", "sea", MEAN] and len(rows) == 6
    assert draw_kinds(run).is_file() and draw_shares(run).is_file()
    _, shares = shares_table(run)
    assert [row[0] for row in shares] == ["farmer", "sailor"]
    assert sum(float(row[-1].rstrip("%")) for row in shares) == pytest.approx(100.0, abs=0.2)


def test_every_teacher_is_described_on_every_kind(trained):
    rows = describe_teachers(trained.session, trained.data)
    assert [row["bits per byte"] for row in rows] == ["farmer", "sailor"]
    assert list(rows[0]) == ["bits per byte", "land", "sea", "all text"]
