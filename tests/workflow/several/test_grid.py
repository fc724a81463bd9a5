"""Grids: how values are read and named, which combination is the reference, what is asked before many runs."""

import io
import json
from pathlib import Path

import pytest

from kdkit import cli
from kdkit.config.language import dump_config, load_config
from kdkit.errors import UserError
from kdkit.planning.cost import Time
from kdkit.workflow.several import confirm, sweep
from kdkit.workflow.several.grid import Axis, make_grid, name_combinations, read_axes, read_axis
from kdkit.workflow.several.sweep import SweepRequest, default_name
from kdkit.workflow.several.variants import as_override, folder_name, load_sweep, read_seeds
from kdkit.workflow.terminal import Terminal
from tests.tiny import make_config

ROOT = Path(__file__).resolve().parents[3]
SMALL = {"teacher": {"build": {"vocab_size": 320, "hidden_size": 16, "num_layers": 1, "max_steps": 3}}}

pytestmark = pytest.mark.usefixtures("one_thread")


def allow(*_):
    """Stand in for a person who wants every grid."""


def refuse(*_):
    raise AssertionError("it was asked for, or trained")


def grid_of(*texts, overrides=(), seeds="2", file="smoke"):
    return make_grid(file, list(overrides), read_axes(list(texts)), seeds, allow)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("distill.temperature=1.5,2, 3", (1.5, 2, 3)),
        ("distill.loss=jsd,{name: alm}", ("jsd", {"name": "alm"})),
        ("train.stages=[],[{name: a, max_steps: 1}, {name: b, max_steps: 2}]", ([], [{"name": "a", "max_steps": 1}, {"name": "b", "max_steps": 2}])),  # noqa: E501
        ("train.warmup_steps=null,3", (None, 3)),
        ("data.path='a,b.txt',c.txt", ("a,b.txt", "c.txt")),
    ],
)  # fmt: skip
def test_values_are_yaml_so_lists_and_mappings_may_be_among_them(text, values):
    assert read_axis(text) == Axis(text.partition("=")[0], values)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["distill.temperature"], "expected section.key=VALUE,VALUE, got 'distill.temperature'"),
        (["=1,2"], "expected section.key=VALUE,VALUE"),
        (["distill.temperature=2"], "expected at least two values of distill.temperature, got 1"),
        (["distill.temperature=2,2"], "expected every value once, got 'distill.temperature=2' twice"),
        (["distill.temperature=2,3", "distill.temperature=4,5"], "expected every key once, got distill.temperature"),
        (["distill.loss=[jsd,alm"], "expected YAML values with commas between"),
        (["seed=0,1"], "expected any setting but the seed, got 'seed'; use --seeds"),
        (["temperature=1,2"], "expected section.key, such as distill.temperature, got 'temperature'"),
    ],
)
def test_a_wrong_grid_is_refused(texts, words):
    with pytest.raises(UserError, match=f"--grid: {words}".replace("[", r"\[")):
        read_axes(texts)


def test_every_combination_is_a_variant_and_the_configuration_s_own_is_the_reference():
    made = grid_of("distill.temperature=3,1", "distill.kd_ratio=0.3,0.5")
    assert list(made.variants) == [f"temperature={t} kd_ratio={k}" for t in (3, 1) for k in (0.3, 0.5)]
    assert made.variants["temperature=3 kd_ratio=0.5"] == {"distill.temperature": 3, "distill.kd_ratio": 0.5}
    assert made.reference == "temperature=1 kd_ratio=0.5" and made.seeds == [0, 1]


def test_own_values_are_those_with_p_and_the_first_stands_for_one_that_is_not_in_the_grid():
    overrides = ["distill.kd_ratio=0.3", "distill.temperature=7"]
    made = grid_of("distill.temperature=3,1", "distill.kd_ratio=0.5,0.3", overrides=overrides)
    assert made.reference == "temperature=3 kd_ratio=0.3"


def test_long_values_are_named_by_their_place_and_no_two_variants_share_a_folder():
    stages = "train.stages=[],[{name: a, max_steps: 1}]"
    assert list(grid_of(stages).variants) == ["stages=#1", "stages=#2"]
    signs = [Axis("a.b", (0.1, -0.1))]
    many = [Axis(f"section.a_setting_of_a_long_name_{i}", (1, 2)) for i in range(6)]
    assert len({folder_name(name) for name in name_combinations(signs)}) == 2
    assert len({folder_name(name) for name in name_combinations(many)}) == 64


@pytest.mark.parametrize(
    ("text", "of_a_grid", "of_a_file"),
    [("", [], []), ("3", [0, 1, 2], [3]), ("0,1", [0, 1], [0, 1]), ("7,", [7], [7]), ("1", [0], [1])],
)
def test_a_number_alone_counts_seeds_of_a_grid_and_is_the_seed_of_a_file(text, of_a_grid, of_a_file):
    assert read_seeds(text, one_is_a_count=True) == of_a_grid
    assert read_seeds(text, one_is_a_count=False) == of_a_file


@pytest.mark.parametrize("text", ["0", "-1", "three", "1.5"])
def test_what_is_no_count_of_seeds_is_refused(text):
    with pytest.raises(UserError, match="--seeds: expected how many, such as 3, or which, such as 0,1"):
        read_seeds(text, one_is_a_count=True)


def test_a_grid_of_a_file_of_variants_names_its_configuration():
    with pytest.raises(UserError, match=r"expected the file of one run.*python -m kdkit sweep demo.yaml --grid"):
        grid_of("distill.temperature=1,2", file="ablation_router")


class Person(io.StringIO):
    """A terminal in front of which somebody sits."""

    def isatty(self):
        return True


@pytest.mark.parametrize(("answer", "goes_on"), [("y", True), ("Yes ", True), ("n", False), ("", False)])
def test_a_person_is_asked_before_many_runs_with_their_number_and_time(monkeypatch, answer, goes_on):
    asked = []
    monkeypatch.setattr("sys.stdin", Person())
    monkeypatch.setattr("builtins.input", lambda words: asked.append(words) or answer)
    arguments = "9 x 2 variants x 3 seeds", 54, 3, load_config(ROOT / "configs" / "smoke.yaml"), False
    if goes_on:
        confirm.confirm_runs(*arguments, Terminal(stream=Person()))
    else:
        with pytest.raises(UserError, match="expected y or yes to train 54 runs"):
            confirm.confirm_runs(*arguments, Terminal(stream=Person()))
    assert asked[0].startswith("9 x 2 variants x 3 seeds = 54 runs, about ") and "one after the other" in asked[0]


def test_the_time_of_a_grid_holds_teacher_and_baseline_of_every_seed(monkeypatch):
    monkeypatch.setattr(confirm, "say_time", lambda seconds: f"{seconds:.0f}")
    of_run = Time(2.0, 0.25, 10, "", once=100.0, trainings=1.0, crossing=0.0, speed=None)
    monkeypatch.setattr(confirm, "plan_time", lambda *_: of_run)
    config = load_config(ROOT / "configs" / "smoke.yaml")
    words = [confirm.estimate(config, 6, seeds) for seeds in (1, 3)]
    assert words[0].startswith(", about 265 ") and words[1].startswith(", about 495 ")  # 6 x 25 s; 115 s a seed


def test_where_nobody_can_be_asked_many_runs_need_yes(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    monkeypatch.setattr("builtins.input", refuse)
    monkeypatch.setattr(confirm, "estimate", lambda *_: "")
    config = None
    with pytest.raises(UserError, match="got 51 = 51 runs; add --yes"):
        confirm.confirm_runs("51", 51, 3, config, False, Terminal())
    confirm.confirm_runs("51", 51, 3, config, True, Terminal())
    confirm.confirm_runs("50", 50, 3, config, False, Terminal())
    assert "50 = 50 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--grid distill.temperatur=1,2", "got 'distill.temperatur'; did you mean 'distill.temperature'?"),
        ("--grid distill.kd_ratio=0.5,1.5", "distill.kd_ratio: expected less than or equal to 1, got 1.5"),
        (
            "--grid distill.kd_ratio=0,1 --trials 5",
            ": python -m kdkit sweep smoke --grid distill.kd_ratio=0,1\n",
        ),
    ],
)
def test_what_is_wrong_with_a_grid_is_found_before_anything_is_asked_or_said(monkeypatch, capsys, options, words):
    monkeypatch.setattr(sweep, "confirm_runs", refuse)
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", "smoke", *options.split()])
    said = capsys.readouterr()
    assert stop.value.code == 2 and words in said.err and not said.out


def test_the_command_that_goes_on_holds_the_grid():
    request = SweepRequest("demo", ["train.max_steps=3"], seeds="2", grid=["distill.loss=jsd,{name: alm}"], processes=2)
    assert request.command == (
        "python -m kdkit sweep demo --grid 'distill.loss=jsd,{name: alm}' -p train.max_steps=3 --seeds 2 --processes 2"
    )
    axes = read_axes(["distill.temperature=1,2", "distill.kd_ratio=0,1"])
    assert default_name("configs/demo.yaml", [], axes) == "demo-grid-temperature-kd_ratio"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a grid of two from a cache once; return the folder that holds configuration, cache and runs."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "base.yaml").write_text(dump_config(make_config(folder, **SMALL, cache_dir=f"{folder}/cache")))
    words = ["sweep", f"{folder}/base.yaml", "--grid", "distill.kd_ratio=0.5,0.9", "--seeds", "1", "--runs-dir"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, f"{folder}/runs", "-p", "cache.enabled=true", "--name", "grid"])
    assert stop.value.code == 0
    return folder


def test_runs_of_a_grid_share_text_teacher_answers_and_the_teacher_s_score(trained):
    cache, runs = trained / "cache", trained / "runs" / "grid"
    assert len(list((cache / "answers").glob("*.h5"))) == 1  # of these the key holds nothing that the grid varies
    assert len([path for path in (cache / "teachers").iterdir() if path.is_dir()]) == 1
    manifests = {
        (runs / f"kd-ratio-{ratio}-seed-0" / "data" / "manifest.json").stat().st_ino for ratio in ("0-5", "0-9")
    }
    assert len(manifests) == 1  # one file, linked
    assert len(list((runs / "teachers").iterdir())) == len(list((runs / "baselines").glob("seed-*"))) == 1


def test_the_figures_of_a_grid_hold_its_axes_and_effects(trained):
    figures = json.loads((trained / "runs" / "grid" / "sweep.json").read_text())
    assert figures["grid"] == [{"key": "distill.kd_ratio", "values": [0.5, 0.9], "names": ["0.5", "0.9"]}]
    levels = [entry["levels"][0] for entry in figures["variants"]]
    assert figures["effects"][0]["values"][1]["per_seed"] == pytest.approx([levels[0] - levels[1]])
    assert figures["variants"][0]["parameters"] > 1000


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("sweep_*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_sweeps_are_of_valid_variants_at_equal_steps(path):
    loaded = load_sweep(str(path))
    configs = {
        name: load_config(loaded.config, [as_override(*item) for item in settings.items()])
        for name, settings in loaded.variants.items()
    }
    steps = {
        sum(s.max_steps for s in c.train.stages) if c.train.stages else c.train.max_steps for c in configs.values()
    }
    assert len(steps) == 1 and len(loaded.seeds) >= 3
    assert len({dump_config(config) for config in configs.values()}) == len(configs) >= 3
    patterns = {r.pattern for c in configs.values() for r in c.train.parameter_lr_multipliers}
    assert patterns <= {"embed", "self_attn", "mlp"}


def test_there_are_five_shipped_sweeps():
    assert {path.stem.removeprefix("sweep_") for path in (ROOT / "configs").glob("sweep_*.yaml")} == {
        "alpha", "temperature", "top_k", "stages", "lr_multipliers",
    }  # fmt: skip


@pytest.mark.slow
def test_a_shipped_sweep_trains_at_the_size_of_the_smoke_run(tmp_path):
    sizes = ["data.subset_size=60", "teacher.build.max_steps=5", "train.max_steps=6", "train.warmup_steps=1"]
    sizes += ["evaluate.max_sequences=16", "evaluate.curve_sequences=8", f"cache_dir={tmp_path}/cache"]
    words = ["sweep", "sweep_top_k", "--only", "no-cache,top-4", "--seeds", "0,", "--runs-dir", f"{tmp_path}/runs"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--name", "small", *(word for size in sizes for word in ("-p", size))])
    assert stop.value.code == 0
    figures = json.loads((tmp_path / "runs" / "small" / "sweep.json").read_text())
    trained = {entry["name"]: entry["levels"][0] for entry in figures["variants"] if entry["mean"] is not None}
    assert set(trained) == {"no cache", "top 4"} and trained["no cache"] != trained["top 4"]
