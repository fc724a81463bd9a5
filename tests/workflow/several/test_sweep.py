"""A sweep, once: the runs it leaves, what a second call does, and how it answers mistakes."""

import json
import shlex
import shutil
from pathlib import Path
from typing import get_args

import pytest
import yaml

from kdkit import cli
from kdkit.config.language import dump_config, load_config
from kdkit.config.recipe.settings import RecipeConfig
from kdkit.config.teacher import RouterConfig
from kdkit.config.training import OptimizationConfig
from kdkit.errors import UserError
from kdkit.runs.open_run import open_run
from kdkit.training.progress import Progress
from kdkit.workflow.several import sweep, trial
from kdkit.workflow.several.sweep import SweepRequest, plan_runs, run_sweep
from kdkit.workflow.several.trial import baseline_key
from kdkit.workflow.several.variants import as_override, choose_variants, load_sweep
from tests.tiny import make_config, make_data

ROOT = Path(__file__).resolve().parents[3]
FEW_STEPS = {"teacher": {"build": {"vocab_size": 320, "hidden_size": 16, "num_layers": 1, "max_steps": 3}}}
VARIANTS = {"plain": None, "more, of it": {"distill.kd_ratio": 0.9, "distill.loss": {"name": "alm"}}}
RUNS = ["plain-seed-0", "more-of-it-seed-0", "plain-seed-1", "more-of-it-seed-1"]

pytestmark = pytest.mark.usefixtures("one_thread")


def write_sweep(folder, **changes):
    """Write a small configuration and a sweep of it into a folder; return the sweep's file."""
    config = make_config(folder, **FEW_STEPS, cache_dir=f"{folder}/cache")
    (folder / "base.yaml").write_text(dump_config(config))
    values = {"config": "base.yaml", "seeds": [0, 1], "reference": "plain", "variants": VARIANTS} | changes
    path = folder / "few.yaml"
    kept = {key: value for key, value in values.items() if value is not None}
    path.write_text(yaml.safe_dump(kept, sort_keys=False))
    return path


def call(path, *options):
    """Call the command; return its exit code."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", str(path), "--runs-dir", f"{path.parent}/runs", *options])
    return stop.value.code


def refuse(*arguments):
    raise AssertionError("something was trained")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Sweep two variants over two seeds once; return the sweep's file."""
    path = write_sweep(tmp_path_factory.mktemp("sweep"))
    assert call(path) == 0
    return path


@pytest.fixture
def folder(finished):
    """Return the folder of the finished sweep."""
    return finished.parent / "runs" / "few"


def read_trial(folder, name):
    """Read what a run of a sweep came to."""
    return json.loads((folder / name / "trial.json").read_text())["trial"]


def test_every_variant_and_seed_is_a_run_that_the_notebooks_can_open(finished, folder):
    for name in RUNS:
        config, run = open_run(folder / name / "config.yaml", "", name, folder)
        assert run.path == folder / name and config.seed == int(name[-1])
        assert (config.distill.kd_ratio == 0.9) == name.startswith("more")
        assert not config.distill.equal_time_baseline
        assert {line["phase"] for line in run.read_metrics()} >= {"student", "baseline"}
        assert {"student", "baseline"} <= set(run.read_json("training.json"))
        assert (run.path / "student" / "model.safetensors").is_file()


def test_one_baseline_per_seed_serves_all_variants(folder):
    assert len(list((folder / "baselines").iterdir())) == 2
    weights = {name: (folder / name / "baseline" / "model.safetensors").read_bytes() for name in RUNS}
    assert weights[RUNS[0]] == weights[RUNS[1]] != weights[RUNS[2]] == weights[RUNS[3]]
    assert read_trial(folder, RUNS[0])["baseline"] == read_trial(folder, RUNS[1])["baseline"]


def test_the_summary_holds_the_figures_of_the_runs(folder):
    summary = json.loads((folder / "sweep.json").read_text())
    levels = [[read_trial(folder, name)["student"] for name in RUNS[i::2]] for i in (0, 1)]
    assert [entry["levels"] for entry in summary["variants"]] == levels
    assert summary["variants"][1]["difference"]["per_seed"] == [a - b for a, b in zip(*levels, strict=True)]
    assert summary["variants"][1]["settings"] == VARIANTS["more, of it"]
    assert "torch" in summary["environment"]["packages"]


def test_the_report_is_written(folder):
    assert "more, of it" in (folder / "report.html").read_text()
    page = (folder / "report.md").read_text()
    assert "few.yaml" in page and "python -m kdkit sweep" in page and str(folder.parent.parent) not in page
    assert (folder / "variants.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_call_trains_nothing(finished, folder, monkeypatch, capsys):
    monkeypatch.setattr(trial, "distill", refuse)
    before = {name: (folder / name / "trial.json").stat().st_mtime_ns for name in RUNS}
    assert call(finished) == 0
    assert capsys.readouterr().out.count("finished before, inputs unchanged, skipped") == 4
    assert before == {name: (folder / name / "trial.json").stat().st_mtime_ns for name in RUNS}


def test_other_code_makes_every_run_anew(finished, monkeypatch):
    request = SweepRequest(str(finished), runs_dir=f"{finished.parent}/runs")

    def missing():
        return [plan for plan in plan_runs(load_sweep(request.file), request, "few") if plan.outcome() is None]

    assert missing() == []
    monkeypatch.setattr(trial, "code_fingerprint", lambda *_: "other")
    assert len(missing()) == 4


def test_a_run_that_was_lost_comes_to_the_same_figures_alone(finished, folder, capsys):
    before = read_trial(folder, "plain-seed-1")
    shutil.rmtree(folder / "plain-seed-1")
    assert call(finished, "--only", "plain", "--seeds", "1") == 0
    output = capsys.readouterr().out
    assert "[1/1] plain, seed 1: " in output and "about 0 s left" in " ".join(output.split())
    assert "kept" not in output  # that the baseline is shared needs no line in every run
    after = read_trial(folder, "plain-seed-1")
    assert after | {"seconds": 0} == before | {"seconds": 0}


def test_results_that_a_crash_has_emptied_or_cut_are_made_again(finished, folder):
    before, levels = read_trial(folder, RUNS[0]), {path: path.read_text() for path in folder.glob("*/*/score.json")}
    levels |= {path: path.read_text() for path in folder.glob("teachers/*.json")}
    for path in levels:
        path.write_text("")
    (folder / RUNS[0] / "trial.json").write_text('{"inputs": "1')
    assert call(finished) == 0
    assert read_trial(folder, RUNS[0]) | {"seconds": 0} == before | {"seconds": 0}
    assert len(levels) > 2 and sum(path.read_text() == text for path, text in levels.items()) == 2  # those of its seed


def test_an_interrupted_training_goes_on_from_its_checkpoint(finished, folder, monkeypatch, capsys):
    shutil.rmtree(folder / "plain-seed-0", ignore_errors=True)
    before = Progress.on_log

    def stop_at_four(self, args, state, control, logs, **rest):
        if state.global_step == 4:  # checkpoints are written every three steps
            raise KeyboardInterrupt
        before(self, args, state, control, logs, **rest)

    monkeypatch.setattr(Progress, "on_log", stop_at_four)
    assert call(finished, "--only", "plain") == 130
    said = capsys.readouterr().err
    assert said.startswith("kdkit: stopped; finished runs are kept; to go on: python -m kdkit sweep ")
    monkeypatch.setattr(Progress, "on_log", before)
    cli_words = shlex.split(said.partition("python -m kdkit ")[2])
    with pytest.raises(SystemExit) as stop:
        cli.main(cli_words)
    assert stop.value.code == 0
    assert "plain, seed 0: student: goes on from step 3 of 6" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("raised", "code"), [(UserError, 2), (RuntimeError, 1)])
def test_a_variant_that_fails_is_named_and_stops_no_other(tmp_path, monkeypatch, capsys, raised, code):
    tried = []

    def fail(plan, folder, watch, with_baseline):
        tried.append(plan.variant)
        raise raised("out of\nmemory")

    monkeypatch.setattr(trial, "_train", fail)
    assert call(write_sweep(tmp_path)) == code
    assert len(tried) == 4
    page = tmp_path / "runs" / "few" / "report.html"
    said = capsys.readouterr().err
    assert said.startswith("kdkit: variant 'plain', seed 0: out of memory; 4 of 4 runs failed; what the others came to")
    assert str(page) in said and page.is_file()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": "bse.yaml"}, "config: expected a YAML file, got 'bse.yaml'"),
        ({"seed": [0]}, "expected a known key, got 'seed'; did you mean 'seeds'?"),
        ({"seeds": [0, 1, 0]}, "seeds: expected every seed once, got [0, 1, 0]"),
        ({"seeds": []}, "seeds: expected"),
        ({"seeds": [-1]}, "seeds.0: expected greater than or equal to 0, got -1"),
        ({"seeds": "all"}, "seeds: expected list, got 'all'"),
        ({"reference": "plian"}, "reference: expected a variant among plain, more-of-it, got 'plian'; did you mean"),
        ({"reference": None}, "reference: expected a value, got none"),
        ({"variants": {"plain": {}}}, "variants: expected"),
        ({"variants": {"plain": {}, "plain!": {"distill.balance": True}}}, "got 'plain', whose folder would be"),
        (
            {"variants": {"plain": {}, "b": {"distill.kd_ration": 1}}},
            "seed 0: distill.kd_ration: expected",
        ),
        ({"variants": {"plain": {}, "b": {"distill.kd_ratio": 2}}}, "variant 'b', seed 0: distill.kd_ratio: expected"),
        ({"variants": {"plain": {}, "b": {"distill.loss": "tvd"}}}, "variant 'b', seed 0: "),
        ({"variants": {"plain": {}, "b": {"seed": 3}}}, "expected section.key, such as router.kind, got 'seed' in 'b'"),
        ({"variants": {"plain": {}, "b": {"distill": {"kd_ratio": 1}}}}, "got 'distill' in 'b'"),
        ({"variants": {"plain": {}, "b": {"distill.temperature": 1}}}, "got the same for 'plain' and 'b'"),
        ({"variants": {"plain": {}, "b": 3}}, "variants.b: expected dictionary, got 3"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_trained(tmp_path, monkeypatch, capsys, changes, words):
    monkeypatch.setattr(sweep, "train_missing", refuse)
    assert call(write_sweep(tmp_path, **changes)) == 2
    answer = capsys.readouterr().err
    assert answer.startswith("kdkit: ") and answer.count("\n") == 1 and words in answer
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--only", "plane"], "--only: expected a variant among plain, more-of-it, got 'plane'; did you mean 'plain'?"),
        (["--seeds", "0,0"], "seeds: expected every seed once, got [0, 0]"),
        (["--seeds", "0,a"], "seeds.1: expected integer, got 'a'"),
        (["-p", "seed=3"], "-p: expected any setting but the seed, got 'seed=3'; use --seeds"),
        (["-p", "train.max_step=3"], "did you mean 'train.max_steps'?"),
        (["--name", "a/b"], "--name: expected letters"),
    ],
)
def test_a_wrong_option_is_refused(tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.setattr(sweep, "train_missing", refuse)
    assert call(write_sweep(tmp_path), *options) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "which does not exist"), ("a: [", "expected YAML in"), ("- a", "got list"), ("", "got NoneType")],
)
def test_a_file_that_is_no_sweep_is_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "few.yaml").write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        load_sweep(str(tmp_path / "few.yaml"))
    assert "few.yaml" in str(caught.value)


def test_a_run_is_not_taken_for_a_sweep(tmp_path):
    path = write_sweep(tmp_path)
    open_run(tmp_path / "base.yaml", "", "taken", tmp_path / "runs")
    with pytest.raises(UserError, match="--name: expected a sweep's folder, got 'taken', which is a run's"):
        run_sweep(SweepRequest(str(path), name="taken", runs_dir=f"{tmp_path}/runs"))


def test_the_shipped_sweep_compares_every_kind_of_router_with_none():
    loaded = load_sweep(str(ROOT / "configs" / "ablation_router.yaml"))
    variants = loaded.variants.items()
    configs = {name: load_config(loaded.config, [as_override(*item) for item in of.items()]) for name, of in variants}
    kinds = {config.router.kind for config in configs.values()}
    assert kinds == set(get_args(RouterConfig.model_fields["kind"].annotation))
    assert configs[loaded.reference].router.kind == "none" and len(loaded.seeds) >= 3


def test_the_shipped_sweep_of_recipes_changes_every_option_of_a_training():
    loaded = load_sweep(str(ROOT / "configs" / "minillm_recipes.yaml"))
    variants = loaded.variants.items()
    configs = {name: load_config(loaded.config, [as_override(*item) for item in of.items()]) for name, of in variants}
    plain = configs.pop(loaded.reference)
    assert plain.train == load_config(loaded.config).train and len(loaded.seeds) >= 3
    changed = {
        name
        for config in configs.values()
        for name, value in config.train
        if name in RecipeConfig.model_fields and value != getattr(plain.train, name)
    }
    own = RecipeConfig.model_fields.keys() - OptimizationConfig.model_fields.keys()
    # how a step is cut into micro-batches changes nothing that it learns
    assert own - changed <= {"muon", "lr_schedule_options", "micro_batch_tokens"}
    assert "documents" in {config.data.align for config in configs.values()}


def test_a_name_with_a_comma_is_chosen_whole_or_by_its_folder():
    names = ["plain", "more, of it"]
    assert choose_variants("more, of it", names) == ["more, of it"]
    assert choose_variants("plain,more-of-it", names) == names == choose_variants("", names)


@pytest.mark.parametrize("value", ["alm", "3", "a, b: c", True, None, 3, 5e-5, [1, 2], {"name": "jsd"}, "x" * 200])
def test_a_setting_is_written_so_that_it_reads_back_the_same(value):
    key, _, text = as_override("section.key", value).partition("=")
    assert (key, yaml.safe_load(text)) == ("section.key", value)


def test_a_baseline_is_shared_unless_a_variant_changes_what_it_learns_from(tmp_path):
    def key(**changes):
        config = make_config(tmp_path, **changes)
        return baseline_key(config, data)

    data = make_data(make_config(tmp_path), tmp_path)
    other_teacher = {"build": {"vocab_size": 320, "num_layers": 3}}
    assert key() == key(distill={"kd_ratio": 0.9}) == key(router={"kind": "all_experts"}) == key(teacher=other_teacher)
    assert key() != key(train={"learning_rate": 1e-3}) and key() != key(student={"build": {"num_layers": 2}})
    ordered = {"curriculum": "teacher_loss"}
    assert key(train=ordered) != key(train=ordered, teacher=other_teacher)
