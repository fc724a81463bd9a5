"""A whole embedding distillation with a tiny teacher: every method, odd sentences, other tokenizers, going on."""

import json
import math
import os
import shutil
import signal

import numpy as np
import pytest
import torch

from kdkit.config.methods import method_options
from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.data.tasks import load_tasks
from kdkit.embeddings.evaluate.run import evaluate_embedding_run, find_candidates, task_scorer
from kdkit.embeddings.methods.base import PairFacts
from kdkit.embeddings.models.embedder import encode, load_embedding_model, tokenize
from kdkit.embeddings.teacher.probe import probe_embedding_teacher
from kdkit.embeddings.training.student import make_embedding_student
from kdkit.embeddings.training.train import distill_all, teacher_layer
from kdkit.embeddings.training.trainer import EmbeddingTrainer
from kdkit.errors import UserError
from kdkit.machine.interrupt import Stopped
from kdkit.runs.open_run import open_embedding_run
from tests.embedders import cpu, make_session, save_teacher, write_sentences

pytestmark = pytest.mark.usefixtures("one_thread")

ODD = ["☃ ☃☃", "the", "The", "cat cat cat cat cat cat", "x y z", "a" * 400]
"""Only unknown words, one word, the same tokens twice, a word too long to be one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a teacher, sentences and a task; the teacher's answers are kept there."""
    path = tmp_path_factory.mktemp("embedding")
    save_teacher(path / "teacher")
    write_sentences(path / "plain.csv")
    write_sentences(path / "odd.csv", 40, ODD)
    (path / "sts.csv").write_text(
        "sentence1,sentence2,score\nthe cat sat,a cat ran,3\nblue tree,red house,1\nit was big,it was big,5\n"
        "quick dog,slow dog,2\nthe mat,,0\n"
    )
    return path


def open_run(folder, name, *overrides, sentences="plain"):
    values = [
        "method=cosine",
        f"data.path={folder / sentences}.csv",
        f"teacher.path={folder / 'teacher'}",
        f"cache_dir={folder / 'cache'}",
        "data.max_length=16",
        "data.evaluation_fraction=0.2",
        "student.layers=[0,3]",
        "train={per_device_train_batch_size: 8, max_steps: 3, warmup_steps: 0, log_every: 1}",
        f"evaluate.tasks=[{{name: tiny, kind: sts, path: {folder / 'sts.csv'}}}]",
        "evaluate.bootstrap_samples=100",
    ]
    file = folder / "run.yaml"
    file.write_text("method: cosine\n")
    return open_embedding_run(str(file), [*values, *overrides], name, str(folder / "runs"))


def distil(config, run, **more):
    data = prepare_sentences(make_session(config, run), None)
    probe_embedding_teacher(make_session(config, run), data)
    return data, distill_all(make_session(config, run), data, **more)


def losses(run):
    return [line["loss"] for line in run.read_metrics() if "loss" in line]


ON_SENTENCES = [name for name in method_options() if name != "late_interaction"]
"""Methods that need no pairs; the other is in test_late_interaction.py."""
SMALL_WIDTHS = {"stella": "dimensions: [8, 16]"}


def method(name, *options):
    """Write a method with widths that the tiny teacher has."""
    return f"method={{{', '.join([f'name: {name}', *filter(None, [SMALL_WIDTHS.get(name), *options])])}}}"


@pytest.mark.parametrize("name", ON_SENTENCES)
def test_every_method_survives_odd_sentences(folder, name):
    # the task tests on an empty sentence too, which would leave it out here
    options = "data.evaluation_fraction=0.05", "train.max_steps=6", "data.decontaminate=false"
    config, run = open_run(folder, f"odd-{name}", method(name), *options, sentences="odd")
    data, trainings = distil(config, run)
    assert "x y z" in data.texts
    assert len(losses(run)) == 6 and all(map(math.isfinite, losses(run)))
    assert trainings[name]["skipped_steps"] == 0 < trainings[name]["peak_memory_bytes"]
    student = load_embedding_model(str(run.path / "student"), "student.path")
    assert torch.isfinite(torch.from_numpy(encode(student, ["", "☃", "the cat"], 2))).all()


@pytest.mark.parametrize("name", ON_SENTENCES)
def test_every_method_teaches_a_student_of_another_width_and_tokenizer(folder, name):
    build = "student={path: build, build: {tokenizer: own, vocab_size: 300, hidden_size: 16, num_layers: 2}}"
    config, run = open_run(folder, f"own-{name}", method(name), build)
    data, _ = distil(config, run)
    assert not data.manifest["same_tokenizer"]
    assert all(map(math.isfinite, losses(run)))


@pytest.mark.parametrize("form", ["paper", "seed"])
@pytest.mark.parametrize("name", ["talas", "dskd", "cdm", "emo", "stella"])
def test_published_forms_run_between_two_tokenizers(folder, name, form):
    build = "student={path: build, build: {tokenizer: own, vocab_size: 300, hidden_size: 16, num_layers: 2}}"
    config, run = open_run(folder, f"{form}-{name}", method(name, f"form: {form}"), build)
    distil(config, run)
    assert all(map(math.isfinite, losses(run)))


@pytest.mark.parametrize("cache", ["true", "false"])
def test_a_cached_teacher_and_one_in_memory_train_the_same_student(folder, cache):
    config, run = open_run(folder, f"cache-{cache}", method("emo"), f"teacher.cache={cache}")
    distil(config, run)
    (folder / f"{cache}.json").write_text(json.dumps(losses(run)))
    if cache == "false":
        cached = json.loads((folder / "true.json").read_text())
        assert losses(run) == pytest.approx(cached, rel=2e-3)


def test_methods_to_compare_start_from_the_same_weights_and_all_are_scored(folder):
    config, run = open_run(folder, "compare", "compare=[rkd, leaf]", "evaluate.dimensions=[8]")
    tasks = load_tasks(config, run.cache_path)
    data, trainings = distil(config, run, after_epoch=task_scorer(make_session(config, run), tasks))
    assert list(trainings) == ["cosine", "rkd", "leaf"]
    first = [line["tasks"]["tiny"] for line in run.read_metrics() if line["step"] == 0]
    assert len(first) == 3 and first[0] == first[1]
    models = evaluate_embedding_run(make_session(config, run), data, tasks)["models"]
    assert {name: model["role"] for name, model in models.items()} == {
        "teacher": "teacher",
        "untrained": "untrained",
        "off the shelf": "off_the_shelf",
        "cosine": "student",
        "rkd": "compared",
        "leaf": "compared",
    }
    assert models["untrained"]["tasks"]["tiny"]["main"] == pytest.approx(first[0], abs=1e-3)
    assert {name: models[name]["steps"] for name in trainings} == {name: trainings[name]["steps"] for name in trainings}
    student, kept = models["cosine"], run.read_json("scores.json")["tasks"]["tiny"]
    assert len(kept) == config.evaluate.bootstrap_samples and "resamples" not in run.read_json("evaluation.json")
    assert np.quantile(kept, [0.025, 0.975]) == pytest.approx(student["tasks"]["tiny"]["interval_95"], abs=1e-3)
    assert models["leaf"]["width"] == 24 and (run.path / "compared" / "leaf" / "2_Dense").is_dir()


def test_an_interrupted_run_goes_on_where_it_was(folder, monkeypatch):
    options = "train.save_every=1", "compare=[rkd]"
    config, run = open_run(folder, "whole", *options)
    distil(config, run)
    config, broken = open_run(folder, "broken", *options)

    def stop(model):
        if any(line["phase"] == "rkd" and "loss" in line for line in broken.read_metrics()):
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        distil(config, broken, after_epoch=stop)
    assert (broken.path / "student" / "modules.json").is_file() and not (broken.path / "compared").exists()
    distil(config, broken, resume=True)
    assert losses(broken) == losses(run)
    for model in ("student", "compared/rkd"):
        mine, other = (load_embedding_model(str(r.path / model), "student.path").state_dict() for r in (run, broken))
        assert all(torch.equal(mine[name], other[name]) for name in mine)


@pytest.mark.parametrize(("step", "dies"), [(1, False), (3, False), (3, True)], ids=["at 1", "at 3", "killed behind 3"])
def test_a_training_that_was_stopped_goes_on_to_the_same_weights(folder, monkeypatch, capsys, step, dies):
    options = "train.log_every=4", "train.max_steps=5", "train.save_every=3"
    config, run = open_run(folder, f"unstopped-{step}-{dies}", *options)
    distil(config, run)
    config, broken = open_run(folder, f"stopped-{step}-{dies}", *options)
    train_step = EmbeddingTrainer.train_step

    def press(self):
        if dies and self.step == step:
            raise KeyboardInterrupt
        train_step(self)
        if self.step == step and not dies:
            os.kill(os.getpid(), signal.SIGINT)

    said = "" if dies else f"cosine: step {step} of 5 is saved"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt if dies else Stopped, match=said):
        patch.setattr(EmbeddingTrainer, "train_step", press)
        distil(config, broken)
    capsys.readouterr()
    distil(config, broken, resume=True)
    assert f"note: cosine: goes on from step {step} of 5" in capsys.readouterr().out
    mine, other = (load_embedding_model(str(r.path / "student"), "student.path").state_dict() for r in (run, broken))
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    before, after = (json.loads((r.path / "training.json").read_text())["cosine"]["steps"] for r in (run, broken))
    assert before == after == 5
    lines = [[line | {"seconds": 0} for line in each.read_metrics()] for each in (run, broken)]
    assert lines[0] == lines[1], "a line of the log is of steps before and behind"


@pytest.mark.parametrize(
    ("override", "width"), [("student={path: build, build: {hidden_size: 16}}", 16), ("seed=1", 24)]
)
def test_a_dimension_above_the_students_width_is_refused_before_it_is_trained(folder, override, width):
    config, run = open_run(folder, f"wide-{width}", override, f"evaluate.dimensions=[8, {width + 1}]")
    with pytest.raises(UserError, match=f"expected at most the width {width}, got {width + 1}"):
        distil(config, run)
    assert not run.read_metrics()


def test_a_student_reads_no_prompt_neither_in_training_nor_after_it(folder):
    config, run = open_run(folder, "prompt", "teacher.prompt='the cat '")
    data, _ = distil(config, run)
    student = load_embedding_model(str(run.path / "student"), "student.path")
    assert (student.reading.prompt, student.reading.prompts) == ("", {})
    trained = [ids.tolist() for ids in data.student_tokens]
    assert trained == tokenize(student.tokenizer, data.texts, 16)
    assert [len(ids) for ids in data.teacher_tokens][:9] == [min(len(ids) + 2, 16) for ids in trained][:9]


def test_a_student_pools_all_that_it_reads_where_its_teacher_leaves_the_prompt_out(folder):
    shutil.copytree(folder / "teacher", folder / "instructed")
    settings = json.loads((folder / "instructed/1_Pooling/config.json").read_text())
    (folder / "instructed/1_Pooling/config.json").write_text(json.dumps(settings | {"include_prompt": False}))
    prompts = {"prompts": {"query": "the cat sat on a "}, "default_prompt_name": "query"}
    (folder / "instructed/config_sentence_transformers.json").write_text(json.dumps(prompts))
    config, run = open_run(folder, "instructed", f"teacher.path={folder / 'instructed'}")
    student = make_embedding_student(config, prepare_sentences(make_session(config, run), None))
    states = torch.randn(2, 3, student.backbone_width)
    pooled = student.pool(states, torch.ones(2, 3, dtype=torch.int64))
    torch.testing.assert_close(pooled, states.mean(dim=1))  # of all tokens, the first ones too
    assert np.linalg.norm(encode(student, ["the dog"], 1, normalize=False)) > 0.1


def test_a_student_cut_out_of_its_teacher_pools_as_it_is_told_to(folder):
    config, run = open_run(folder, "cls", "teacher.pooling=cls")
    assert make_embedding_student(config, prepare_sentences(make_session(config, run), None)).reading.pooling == "cls"
    config, run = open_run(folder, "own", "teacher.pooling=cls", "student.pooling=last")
    assert make_embedding_student(config, prepare_sentences(make_session(config, run), None)).reading.pooling == "last"


def test_all_models_read_the_tasks_at_the_same_length(folder):
    config, run = open_run(folder, "length", "evaluate.max_length=6")
    data, _ = distil(config, run)
    evaluate_embedding_run(make_session(config, run), data, load_tasks(config, run.cache_path))
    models = find_candidates(make_session(config, run), data)
    assert {name: c.model.reading.max_length for name, c in models.items() if c.model is not None} == {
        "teacher": 6,
        "untrained": 6,
        "cosine": 6,
    }
    student = make_embedding_student(config, data)
    task_scorer(make_session(config, run), load_tasks(config, run.cache_path))(student)
    assert student.reading.max_length == 16


def test_two_runs_of_one_method_are_told_apart_by_their_labels(folder):
    config, run = open_run(folder, "labels", "compare=[{name: cosine, projection: random, label: cosine.random}]")
    _, trainings = distil(config, run)
    assert list(trainings) == ["cosine", "cosine.random"] and (run.path / "compared/cosine.random").is_dir()


def test_heads_of_smaller_widths_are_saved_beside_the_large_one(folder):
    config, run = open_run(folder, "heads", "method={name: stella, separate_heads: true, dimensions: [8, 99]}")
    distil(config, run)
    assert load_embedding_model(str(run.path / "student"), "student.path").width == 24
    widths = [json.loads((run.path / f"student/2_Dense_{w}/config.json").read_text())["out_features"] for w in (8, 99)]
    assert widths == [8, 99]


@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("rkd", "angle_weight: 0", 2),
        ("rkd", "", 3),
        ("similarity_kl", "", 3),
        ("simcse", "", 2),
        ("stella", "", 3),
        ("talas", "", 2),
        ("cosine", "task_weight: 0.1", 2),
    ],
)
def test_a_batch_in_which_nothing_can_be_compared_is_refused(folder, name, options, least):
    config, run = open_run(folder, f"few-{name}-{least}", method(name, options), f"train.batch_size={least - 1}")
    with pytest.raises(UserError, match=rf"per_device_train_batch_size: expected at least {least} sentences for"):
        distil(config, run)


def test_plain_cosine_learns_from_batches_of_one(folder):
    config, run = open_run(folder, "one", "train.batch_size=1", "train.max_steps=2")
    distil(config, run)
    assert min(losses(run)) > 0


@pytest.mark.parametrize(("every_epoch", "passes"), [(True, 2), (False, 0)])
def test_nothing_is_scored_on_the_way_where_nobody_asks_for_it(folder, every_epoch, passes):
    config, run = open_run(folder, f"scored-{passes}", f"evaluate.every_epoch={str(every_epoch).lower()}")
    calls = []
    distil(config, run, after_epoch=lambda student: calls.append(1) or {"tiny": 1.0})
    assert len(calls) == passes


def test_the_mean_cosine_is_logged_every_fifty_steps(folder, capsys):
    config, run = open_run(folder, "collapse", "train.max_steps=120", "evaluate.every_epoch=false")
    distil(config, run)
    assert [line["step"] for line in run.read_metrics() if "mean_off_diagonal_cosine" in line] == [0, 50, 100, 120]


def test_a_run_that_is_resumed_at_its_end_still_knows_of_a_collapse(folder, monkeypatch):
    config, run = open_run(folder, "end", "train.save_every=3")
    monkeypatch.setattr("kdkit.embeddings.training.follow.mean_off_diagonal_cosine", lambda vectors: 0.99)
    monkeypatch.setattr("kdkit.embeddings.training.train.save_embedding_model", raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        distil(config, run)
    monkeypatch.undo()
    _, trainings = distil(config, run, resume=True)
    assert trainings["cosine"]["collapsed"] and trainings["cosine"]["mean_off_diagonal_cosine"] == 0.99
    assert [line["step"] for line in run.read_metrics() if "epoch" in line] == [0, 3]


def test_half_precision_whose_loss_is_never_a_number_ends_with_an_error(folder, monkeypatch):
    config, run = open_run(folder, "nan", method("cosine"), "train.max_skipped_in_a_row=3")
    data = prepare_sentences(make_session(config, run), None)
    probe_embedding_teacher(make_session(config, run), data)
    monkeypatch.setattr("kdkit.embeddings.methods.base.cosine_distance", lambda s, t: (s * math.nan).sum())
    message = "cosine: the loss or its gradient was not a number in 3 steps in a row, the last is step 3"
    with pytest.raises(RuntimeError, match=message):
        distill_all(make_session(config, run, cpu("fp16")), data)
    assert not (run.path / "student").exists() and not losses(run)
    rows = json.loads((run.path / "cosine_not_finite.json").read_text())["rows"]
    assert len(set(rows)) == 8 and max(rows) < len(data.texts)
    assert run.progress()["state"] == "failed"


def raise_interrupt(*_arguments, **_options):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.layers=[0,4]", r"student.layers: expected different layers among 0 to 3, got \[0, 4\]"),
        ("student.layers=[1,1]", r"expected different layers among 0 to 3, got \[1, 1\]"),
        ("student.layers=[]", r"expected different layers among 0 to 3, got \[\]"),
        (
            "method={name: stella, dimensions: [25]}",
            "method.dimensions: expected widths up to the teacher's 24, got 25",
        ),
        ("method={name: emo, num_layers: 3}", "method.num_layers: expected at most the student's 2 layers, got 3"),
        ("train.per_device_train_batch_size=64", "expected at most the"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(folder, override, message):
    config, run = open_run(folder, "refused-" + str(abs(hash(override))), override)
    with pytest.raises(UserError, match=message) as error:
        distil(config, run)
    assert "\n" not in str(error.value)


def test_attention_that_cannot_be_read_is_refused(folder):
    model = load_embedding_model(str(folder / "teacher"), "teacher.path")
    with pytest.raises(UserError, match="expected attention maps of 4 layers, got 0"):
        model(torch.ones(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.int64), attentions=True)


def test_two_sentences_of_a_row_can_be_the_positives(folder):
    (folder / "pairs.csv").write_text(
        "sentence1,sentence2,label\n" + "".join(f"the cat {w},a dog {w},{i % 2}\n" for i, w in enumerate(ALPHABET))
    )
    overrides = "data.positives=second", "data.positive_labels=['1']", "train.per_device_train_batch_size=4"
    config, run = open_run(folder, "pairs", method("simcse"), *overrides, f"data.path={folder / 'pairs.csv'}")
    data, _ = distil(config, run)
    assert data.second is not None and len(data.rows) <= 13
    assert all("dog" in data.texts[row] for row in data.second)


ALPHABET = [f"{a}{b}" for a in "abcde" for b in "vwxyz"]


def test_layers_are_compared_in_proportion_and_last_to_last():
    def mapped(student, teacher):
        return [teacher_layer(layer, PairFacts(16, 24, student, teacher)) for layer in range(student)]

    assert mapped(3, 6) == [1, 3, 5]
    assert mapped(6, 28) == [3, 8, 13, 17, 22, 27]
    assert mapped(4, 2) == [0, 0, 0, 1]


@pytest.mark.parametrize("options", ["name: dskd, form: paper", "name: dskd, form: seed", "name: talas"])
def test_the_same_seed_gives_the_same_losses(folder, options):
    build = "student={path: build, build: {hidden_size: 16, num_layers: 2}}"
    runs = [open_run(folder, f"{name}-{abs(hash(options))}", f"method={{{options}}}", build) for name in ("a", "b")]
    torch.manual_seed(1)
    for config, run in runs:
        torch.rand(3)
        distil(config, run)
    assert losses(runs[0][1]) == losses(runs[1][1])
