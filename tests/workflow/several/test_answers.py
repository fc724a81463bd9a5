"""Runs of a sweep that differ in their temperature read one cache, made by one pass of the teacher."""

from pathlib import Path

import pytest

from kdkit.config.language import dump_config
from kdkit.distill import open_teacher as source
from kdkit.runs.folder import Run
from kdkit.runs.store import open_store
from kdkit.workflow.several import sweep
from kdkit.workflow.several.sweep import SweepRequest, run_sweep
from kdkit.workflow.several.trial import share_answers
from tests.tiny import make_config

pytestmark = pytest.mark.usefixtures("one_thread")

BUILD = {"build": {"vocab_size": 320, "hidden_size": 16, "num_layers": 1, "max_steps": 3}}


class Project:
    """A configuration, and sweeps of it over temperatures."""

    def __init__(self, folder: Path):
        self.folder = folder
        config = make_config(folder, teacher=BUILD, cache={"enabled": True, "top_k": 16}, cache_dir=f"{folder}/cache")
        (folder / "base.yaml").write_text(dump_config(config))
        self.passes = 0

    def sweep(self, values: str, name: str = "grid", *overrides: str) -> Run:
        """Train a grid over temperatures; count how often a teacher is opened to fill a cache."""
        with pytest.MonkeyPatch.context() as patch:
            prepare = source.prepare_teacher

            def count(*given):
                self.passes += 1
                return prepare(*given)

            patch.setattr(source, "prepare_teacher", count)
            grid = [f"distill.temperature={values}"]
            return run_sweep(
                SweepRequest(
                    f"{self.folder}/base.yaml", [*overrides], name, f"{self.folder}/runs", seeds="1", grid=grid
                )
            )

    def caches(self) -> set[str]:
        return {path.name for path in (self.folder / "cache" / "answers").glob("*.h5")}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with a sweep over two temperatures."""
    project = Project(tmp_path_factory.mktemp("answers"))
    project.sweep("1.5,3")
    return project


def levels(folder: Run) -> dict[str, float]:
    return {entry["name"]: entry["levels"][0] for entry in folder.read_json("sweep.json")["variants"]}


def test_a_sweep_over_temperatures_asks_the_teacher_once(project):
    (name,) = project.caches()
    assert project.passes == 1
    assert open_store(project.folder / "cache" / "answers" / name).header["temperatures"] == [1.5, 3.0]


@pytest.mark.slow
def test_its_runs_come_to_what_they_come_to_with_a_cache_each(project):
    shared = levels(Run(project.folder / "runs" / "grid", project.folder / "cache"))
    apart, passes = project.folder / "apart", project.passes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "share_answers", lambda planned: planned)
        alone = levels(project.sweep("1.5,3", "alone", f"cache_dir={apart}"))
    assert project.passes == passes + 2 and len(list((apart / "answers").glob("*.h5"))) == 2
    assert alone == {name: pytest.approx(level, abs=1e-3) for name, level in shared.items()}


def test_the_same_command_goes_on_and_a_further_temperature_is_one_pass_more(project, capsys):
    passes = project.passes
    project.sweep("1.5,3")
    assert project.passes == passes
    capsys.readouterr()
    project.sweep("1.5,3,5")
    assert capsys.readouterr().out.count("finished before") == 2
    assert project.passes == passes + 1


def test_runs_whose_answers_differ_otherwise_share_nothing(project):
    planned = sweep.plan_runs(
        sweep.make_grid(
            f"{project.folder}/base.yaml",
            [],
            sweep.read_axes(["cache.top_k=4,8", "distill.temperature=1,2"]),
            "2",
            lambda *_: None,
        ),
        SweepRequest(f"{project.folder}/base.yaml", runs_dir=f"{project.folder}/runs"),
        "planned",
    )
    assert {plan.temperatures for plan in planned} == {(1.0, 2.0)}
    cool = [plan for plan in planned if plan.config.distill.temperature == 1.0 or plan.config.cache.top_k == 8]
    assert {plan.config.cache.top_k: plan.temperatures for plan in share_answers(cool)} == {4: (1.0,), 8: (1.0, 2.0)}
    assert share_answers(planned)[0].inputs == planned[0].inputs
