"""Trainings with a routed teacher: exact resume, what is logged, every kind of loss."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from kdkit.distill import train as stage
from kdkit.runs.folder import Run
from kdkit.teachers.router.teacher import RoutedTeacher
from kdkit.training.progress import Progress
from tests.routed import SAME_TOKENIZER, Scene, make_scene
from tests.tiny import make_plan, make_run, make_trainer

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ["all_experts", "knowledge_augmentation", "student_aware_routing", "student_aware"]


def configure(scene: Scene, kind: str, train: dict | None = None, distill: dict | None = None, **router):
    """Return the scene's configuration with a router and other settings."""
    changes = {"router": {"kind": kind, "final_top_k": 3, "update_every": 2} | router}
    changes |= {"train": train or {}, "distill": distill or {}}
    config = scene.config
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in changes.items()}
    )


def run_training(scene: Scene, config, folder, name: str = "run", resume: bool = False) -> tuple[Run, RoutedTeacher]:
    """Train a student; return the run and the teacher as it was in the end."""
    run = Run(folder / "runs" / name, folder / "cache")
    run.path.mkdir(parents=True, exist_ok=True)
    made = []
    make = stage.make_trainer

    def keep(*arguments, **options):
        made.append(make(*arguments, **options))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "make_trainer", keep)
        stage.distill(make_plan(config, run, scene.data), scene.teacher, resume=resume)
    return run, made[-1].teacher


def lines_of(run: Run, phase: str) -> list[dict]:
    lines = [line for line in run.read_metrics() if line["phase"] == phase and "evaluation_bits_per_byte" not in line]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.mark.parametrize("kind", ["knowledge_augmentation", "student_aware"])
def test_a_resumed_routed_training_equals_an_uninterrupted_one(scene, tmp_path, kind):
    # updates at 0, 4: the line after the resume at 3 shows the figures of an update before it
    config = configure(scene, kind, update_every=4, augmentation_rate=0.5)
    whole, teacher = run_training(scene, config, tmp_path, "whole")
    on_step_end = Progress.on_step_end

    def stop_at_five(self, args, state, control, **rest):
        on_step_end(self, args, state, control, **rest)
        if state.global_step == 5:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "on_step_end", stop_at_five)
        run_training(scene, config, tmp_path, "broken")
    torch.rand(3)  # the new process has another random state
    broken, resumed = run_training(scene, config, tmp_path, "broken", resume=True)
    expected = AutoModelForCausalLM.from_pretrained(whole.path / "student").state_dict()
    got = AutoModelForCausalLM.from_pretrained(broken.path / "student").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in got.items())
    for phase in ("router", "student"):
        assert [line["step"] for line in lines_of(whole, phase)] == [1, 2, 3, 4, 5, 6]
        assert lines_of(broken, phase) == lines_of(whole, phase)
    if teacher.router is not None:
        routers = teacher.router.state_dict(), resumed.router.state_dict()
        assert all(torch.equal(value, routers[1][name]) for name, value in routers[0].items())


DRAWN = {"shares"}
UPDATED = DRAWN | {"kl", "text", "balance", "anchor", "kl_to_initial", "teacher_loss", "student_loss", "gap"}
UPDATED |= {"skipped_updates"}
AWARE = UPDATED | {"top_k", "temperature"}
OF_THE_STEP_BEFORE = {"capacity_mean", "capacity_moved", "gap_mean", "gap_moved"}


@pytest.mark.parametrize(("kind", "keys"), list(zip(KINDS, [DRAWN, DRAWN, UPDATED, AWARE], strict=True)))
def test_lines_of_the_router_have_the_documented_keys(scene, tmp_path, kind, keys):
    run, _ = run_training(scene, configure(scene, kind), tmp_path)
    lines = lines_of(run, "router")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        measured = OF_THE_STEP_BEFORE if kind == "student_aware" and line["step"] > 1 else set()
        assert set(line) == keys | measured | {"phase", "step"}
        assert [len(layer) for layer in line["shares"]] == [4, 4]
        assert [sum(layer) for layer in line["shares"]] == pytest.approx([1.0, 1.0], abs=1e-5)
        flat = [value for value in line.values() if isinstance(value, float)] + line.get("kl_to_initial", [])
        assert all(math.isfinite(value) for value in flat)
    if kind == "student_aware":
        # a line tells of the step that it follows: 4.8 steps of 6 for k from 1 to 3
        assert [line["top_k"] for line in lines] == [1, 1, 2, 2, 3, 3]
        assert [lines[0]["temperature"], lines[-1]["temperature"]] == pytest.approx([2.0, 1.0])
        assert lines[1]["capacity_moved"] == lines[1]["gap_moved"] == 0.0, "nothing was measured before the first step"
        assert all(line["capacity_moved"] > 0.0 and line["gap_moved"] > 0.0 for line in lines[2:])
        effects = run.read_json("router_effects.json")["parts"]
        assert [row["part"] for row in effects] == ["capacity", "gap", "importance", "annealing"]
    else:
        assert not (run.path / "router_effects.json").exists()
    for name in keys | OF_THE_STEP_BEFORE:
        assert f"`{name}`" in RoutedTeacher.describe.__doc__, name


def test_a_training_is_the_same_whatever_the_accumulation(scene, tmp_path):
    results = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        train = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        config = configure(scene, "all_experts", train)
        trainer = make_trainer(config, make_run(tmp_path, f"{batch_size}"), scene.data, scene.teacher, steps=3)
        trainer.train()
        lines = [line for line in trainer.state.log_history if "loss" in line]
        results.append([line[name] for line in lines for name in ("loss", "kd_loss", "grad_norm")])
    assert results[0] == pytest.approx(results[1], rel=1e-3)


ON_POLICY = {"name": "own", "max_steps": 2, "on_policy": {"prompt_length": 4, "max_new_tokens": 6, "share": 0.5}}


@pytest.mark.parametrize("case", ["alm", "xtoken_p_kl", "on policy", "five losses", "one tokenizer"])
def test_the_router_works_with_every_kind_of_loss(tmp_path, case):
    changes = {"router": {"kind": "student_aware", "final_top_k": 3, "update_every": 1, "learning_rate": 0.01}}
    changes["train"] = {"max_steps": 2, "save_every": 100}
    if case == "one tokenizer":
        changes |= SAME_TOKENIZER
    elif case == "on policy":
        changes["train"] |= {"stages": [ON_POLICY]}
    elif case == "five losses":
        changes["distill"] = {"weights": dict.fromkeys(("feature", "attention", "layerwise", "contrastive"), 0.1)}
    else:
        changes["distill"] = {"loss": case}
    scene = make_scene(tmp_path, **changes)
    run, teacher = run_training(scene, scene.config, tmp_path)
    lines = lines_of(run, "router")
    assert len(lines) == 2 and all(math.isfinite(line["kl"]) and line["kl"] > 0.0 for line in lines)
    assert (teacher.router.gates - teacher.router.initial_gates).abs().max() > 1e-3
