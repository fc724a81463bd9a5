"""Evaluation: formulas with known answers, retention of identical models, the file's shape."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdkit.data.windows import PAD
from kdkit.distill import train as stage
from kdkit.errors import UserError
from kdkit.evaluate.compression import (
    compare_speeds,
    count_bytes,
    count_parameters,
    measure_generation,
    measure_peak_memory,
    measure_speeds,
)
from kdkit.evaluate.evaluation import evaluate_run, late_gain, load_students
from kdkit.evaluate.language import gap_closed, paired_interval
from kdkit.evaluate.retention import compare_predictions, sum_up
from kdkit.evaluate.text_scores import read_scores
from kdkit.training.score import Score
from tests.crossed import cross_data
from tests.references import plain_kl, softmax
from tests.tiny import make_config, make_data, make_llama, make_plan, make_run, make_session, make_teacher


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run after notebook 03, of a student with its teacher's tokenizer."""
    folder = tmp_path_factory.mktemp("evaluate")
    student = {"build": {"tokenizer": "teacher", "hidden_size": 16, "num_layers": 1, "intermediate_size": 32}}
    config = make_config(folder, student=student, distill={"equal_time_baseline": False})
    data, run = make_data(config, folder), make_run(folder)
    teacher = make_teacher(data)
    stage.distill(make_plan(config, run, data), teacher)
    stage.train_baseline(make_plan(config, run, data))
    return config, data, run, teacher


def test_gap_closed_is_a_share_of_the_way_from_baseline_to_teacher():
    assert gap_closed(teacher=2.0, student=2.25, baseline=2.5) == 0.5
    assert gap_closed(teacher=2.0, student=2.6, baseline=2.5) == pytest.approx(-0.2)
    assert gap_closed(teacher=2.5, student=2.4, baseline=2.5) is None


def score(nats: list[float]) -> Score:
    return Score(np.array(nats) * math.log(2), np.full(len(nats), 10), len(nats))


def test_the_interval_of_a_constant_difference_is_that_difference():
    low, high = paired_interval(score([30, 40, 50, 20]), score([25, 35, 45, 15]), seed=0)
    assert low == pytest.approx(0.5) and high == pytest.approx(0.5)


def test_the_interval_of_a_difference_that_changes_its_sign_holds_zero():
    rng = np.random.default_rng(0)
    first, second = rng.normal(30, 3, 200), rng.normal(30, 3, 200)
    low, high = paired_interval(score(first.tolist()), score(second.tolist()), seed=0)
    assert low < 0 < high


def test_the_interval_has_the_width_of_the_normal_approximation():
    rng = np.random.default_rng(1)
    difference = rng.normal(1.0, 2.0, 400)
    documents = [score((30 + difference).tolist()), score([30.0] * 400)]  # of one window each
    documents = [replace(s, document_nats=s.window_nats, document_bytes=s.window_bytes) for s in documents]
    low, high = paired_interval(*documents, seed=0)
    expected = 2 * 1.96 * difference.std() / math.sqrt(400) / 10
    assert high - low == pytest.approx(expected, rel=0.1)


def test_a_model_retains_everything_of_itself(trained):
    _, data, _, teacher = trained
    assert data.same_tokenizer
    result = sum_up(
        compare_predictions(teacher.model, {"itself": teacher.model}, data, data.evaluation, batch_size=4, top_k=5)
    )
    assert result["itself"]["kl_to_teacher"] == pytest.approx(0, abs=1e-5)
    assert result["itself"]["top_k_overlap"] == 1
    assert result["itself"]["top_1_agreement"] == 1
    assert result["itself"]["positions"] == int(data.evaluation.same_token.sum())


def test_another_model_retains_less(trained):
    _, data, _, teacher = trained
    other = make_llama(len(data.student_tokenizer), seed=5).eval()
    places = compare_predictions(teacher.model, {"other": other}, data, data.evaluation, batch_size=4, top_k=5)
    result = sum_up(places)["other"]
    assert result["kl_to_teacher"] > 0.05
    assert result["top_k_overlap"] < 0.9


def test_retention_does_not_depend_on_the_batch_size(trained):
    _, data, _, teacher = trained
    other = {"other": make_llama(len(data.student_tokenizer), seed=5).eval()}
    one, all_at_once = (
        sum_up(compare_predictions(teacher.model, other, data, data.evaluation, batch_size=size, top_k=3))
        for size in (1, 64)
    )
    assert one["other"] == pytest.approx(all_at_once["other"], rel=1e-4)


def test_retention_of_two_tokenizers_equals_a_slow_reference_where_the_same_token_follows(tmp_path):
    data = cross_data(make_config(tmp_path), tmp_path)
    teacher, student = make_teacher(data).model, make_llama(len(data.student_tokenizer), seed=5).eval()
    windows = data.evaluation.first(6)
    result = sum_up(compare_predictions(teacher, {"other": student}, data, windows, batch_size=4, top_k=3))["other"]
    sums = np.zeros(3)
    for row in range(len(windows)):
        sides = (student, windows.student_ids[row]), (teacher, windows.teacher_ids[row])
        with torch.no_grad():
            student_logits, teacher_logits = (
                model(input_ids=torch.from_numpy(ids[ids != PAD])[None].long()).logits[0] for model, ids in sides
            )
        for position in np.flatnonzero(windows.same_token[row]):
            q = student_logits[position][data.overlap.student_ids].tolist()
            p = teacher_logits[windows.teacher_positions[row, position]][data.overlap.teacher_ids].tolist()
            best_q, best_p = (np.argsort(z)[::-1][:3].tolist() for z in (q, p))
            sums += plain_kl(softmax(p, 1.0), softmax(q, 1.0)), len({*best_q} & {*best_p}) / 3, best_q[0] == best_p[0]
    assert result["positions"] == windows.same_token.sum() > 10
    expected = dict(zip(("kl_to_teacher", "top_k_overlap", "top_1_agreement"), sums / result["positions"], strict=True))
    assert {name: result[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_parameters_and_bytes_count_tied_weights_once():
    model = make_llama(32)
    untied = count_parameters(model)
    model.lm_head.weight = model.model.embed_tokens.weight
    assert untied - count_parameters(model) == 32 * 16
    assert count_bytes(model) >= 4 * count_parameters(model)


def test_speed_counts_tokens_and_bytes_of_the_same_time(trained):
    _, data, _, _ = trained
    models = {"a": (make_llama(len(data.student_tokenizer)), "student"), "b": (trained[3].model, "teacher")}
    speeds = measure_speeds(models, data.evaluation, 4)
    for name, tokens in (("a", "student_tokens"), ("b", "teacher_tokens")):
        ratio = data.evaluation.num_bytes.sum() / data.evaluation.describe()[tokens]
        assert speeds[name]["bytes_per_second"] / speeds[name]["tokens_per_second"] == pytest.approx(ratio)
        by_round = speeds[name]["bytes_per_second_by_round"]
        assert speeds[name]["bytes_per_second"] == pytest.approx(len(by_round) / sum(1 / speed for speed in by_round))


def test_a_ratio_of_speeds_has_the_interval_of_its_rounds():
    low, high = compare_speeds([20.0, 22.0, 18.0], [10.0, 10.0, 10.0])
    logs = np.log([2.0, 2.2, 1.8])
    half = 4.303 * logs.std(ddof=1) / math.sqrt(3)  # Student's t for two degrees of freedom, from a table
    assert (math.log(low), math.log(high)) == pytest.approx((logs.mean() - half, logs.mean() + half), rel=1e-3)
    assert compare_speeds([20.0], [10.0]) is None


def test_speed_and_memory_are_measured_without_keys_and_values_and_writing_with_them(trained, monkeypatch):
    _, data, _, _ = trained
    model = make_llama(len(data.student_tokenizer))
    used, forward = [], type(model).forward

    def watched(self, *args, **options):
        output = forward(self, *args, **options)
        used.append(output.past_key_values is not None)
        return output

    monkeypatch.setattr(type(model), "forward", watched)
    measure_speeds({"it": (model, "student")}, data.evaluation, 4)
    measure_peak_memory(model, data.evaluation, "student", 4)
    assert used and not any(used)
    used.clear()
    figures = measure_generation(model, data.evaluation, "student")
    assert all(used) and len(used) >= 2
    assert figures["tokens_per_second"] > 0 and figures["peak_memory_bytes"] >= count_bytes(model)


def test_sizes_are_compared_in_one_dtype_whatever_the_models_are_loaded_in():
    full, half = make_llama(32), make_llama(32).half()
    assert count_bytes(full, torch.float32) == count_bytes(half, torch.float32) == count_bytes(full)
    assert count_bytes(half) < 0.6 * count_bytes(full)


def test_peak_memory_grows_with_the_batch(trained):
    _, data, _, _ = trained
    # 20,000 rows of logits: tens of megabytes, far above the noise of resident memory
    model = make_llama(20_000)
    small, large = (measure_peak_memory(model, data.evaluation, "student", size) for size in (1, 8))
    assert small >= count_bytes(model)
    assert large - small > 5e6


def test_evaluation_file_has_every_model_and_measure(trained):
    config, data, run, teacher = trained
    returned = evaluate_run(make_session(config, run), data, teacher)
    saved = json.loads((run.path / "evaluation.json").read_text())
    assert saved == json.loads(json.dumps(returned))
    assert list(saved["models"]) == ["teacher", "student", "baseline"]
    names = "perplexity bits_per_byte parameters size_bytes tokens_per_second bytes_per_second peak_memory_bytes"
    for entry in saved["models"].values():
        assert set(names.split()) <= entry.keys()
    assert saved["retention"].keys() == {"student", "baseline"}
    bits = {name: entry["bits_per_byte"] for name, entry in saved["models"].items()}
    assert saved["differences"]["baseline"]["bits_per_byte"] == pytest.approx(bits["baseline"] - bits["student"])
    assert saved["gap_closed"] == gap_closed(bits["teacher"], bits["student"], bits["baseline"])
    low, high = saved["differences"]["baseline"]["interval_95"]
    assert low <= saved["differences"]["baseline"]["bits_per_byte"] <= high
    assert saved["evaluated"]["intervals_over"] == "documents"
    assert saved["evaluated"]["interval_units"] == data.manifest["corpus"]["evaluation_documents"]
    assert saved["compression"]["size_dtype"] == "float32" and len(saved["compression"]["speed_interval_95"]) == 2
    assert [cost["item"] for cost in saved["costs"]] == ["student", "teacher's answers", "baseline"]
    assert len(saved["continuations"]) == 2 and saved["continuations"][0].keys() >= {"prompt", "teacher", "student"}


def test_minimal_pairs_are_judged_by_every_model_where_they_are_asked_for(trained, tmp_path):
    config, data, run, teacher = trained
    assert "minimal_pairs" not in evaluate_run(make_session(config, run), data, teacher)
    rows = [{"sentence_good": f"the quick fox {n}.", "sentence_bad": f"fox quick the {n}.", "UID": "x"} for n in (1, 2)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    evaluate = config.evaluate.model_copy(update={"minimal_pairs": str(tmp_path / "pairs.jsonl")})
    asked = config.model_copy(update={"evaluate": evaluate})
    evaluate_run(make_session(asked, run), data, teacher)
    found = run.read_json("evaluation.json")["minimal_pairs"]
    assert found["models"].keys() == {"teacher", "student", "baseline"} and found["num_pairs"] == {"x": 2}
    missing = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"minimal_pairs": "none.jsonl"})})
    with pytest.raises(UserError, match=r"evaluate\.minimal_pairs: expected kdkit-grammar"):
        evaluate_run(make_session(missing, run), data, teacher)


def test_missing_students_name_the_notebook_to_run(trained, tmp_path):
    config = trained[0]
    with pytest.raises(UserError, match=r"expected a trained student.*notebook 03"):
        load_students(make_session(config, make_run(tmp_path)))


def test_the_scores_of_an_evaluation_are_kept_and_read_again(trained):
    config, data, run, teacher = trained
    levels = evaluate_run(make_session(config, run), data, teacher)["models"]
    scores = read_scores(run)
    assert scores.keys() == levels.keys()
    for name, score in scores.items():
        assert score.bits_per_byte == pytest.approx(levels[name]["bits_per_byte"], abs=1e-6)
        assert score.document_nats.sum() == pytest.approx(score.window_nats.sum(), abs=1e-3)
        assert len(score.document_bytes) == data.manifest["corpus"]["evaluation_documents"]


def test_what_is_gained_late_is_read_off_the_learning_curve():
    curve = [(0, 4.0), (2, 3.0), (4, 2.5), (8, 2.2), (10, 2.0)]
    lines = [{"phase": "student", "step": step, "evaluation_bits_per_byte": level} for step, level in curve]
    others = [{"phase": "student", "step": 10, "loss": 9.0}, {"phase": "baseline", "step": 9, "loss": 1.0}]
    assert late_gain(lines + others, 10) == pytest.approx(0.2)
    assert late_gain(others, 10) is None and late_gain(lines[-1:], 10) is None
    assert late_gain(lines, 20) is None, "the curve of a training that was stopped says nothing of one that was not"
