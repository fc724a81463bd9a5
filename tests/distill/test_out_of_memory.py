"""A micro-batch that does not fit: it is cut, the steps stay the same, and a training that goes on knows it."""

import gc
import json
import weakref

import pytest
import torch

from kdkit.distill import open_teacher as source
from kdkit.distill import train
from kdkit.errors import UserError
from kdkit.machine import budget
from kdkit.teachers.prepare import prepare_teacher
from kdkit.training.micro_batch import is_out_of_memory
from kdkit.training.trainer import LanguageModelTrainer
from tests.distill.test_budget import losses, short_teacher
from tests.tiny import make_config, make_data, make_plan, make_run, make_session

TRAIN = {"max_steps": 5, "batch_size": 4, "gradient_accumulation_steps": 2, "log_every": 1, "save_every": 100}
SAID = "CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A prepared corpus, a configuration, its data and a teacher."""
    folder = tmp_path_factory.mktemp("memory")
    config = short_teacher(make_config(folder, train=TRAIN))
    data = make_data(config, folder)
    return folder, config, data, prepare_teacher(make_session(config, make_run(folder, "teacher")), data)


def lack_memory(monkeypatch, fits, from_step, sizes, kind=torch.OutOfMemoryError):
    """Have no memory for more sequences than fit, found out in the middle of the backward pass."""
    compute_step = LanguageModelTrainer.compute_step
    handles = []
    kept = train.DistillationTrainer.compute_step

    def hooked(original):
        def hook(self, model, inputs, num_items_in_batch):
            loss, terms = original(self, model, inputs, num_items_in_batch)
            size = len(inputs["input_ids"])
            sizes.append(size)

            def fail(gradient):
                is_late = self.state.global_step + 1 >= from_step
                if size > fits and is_late and not isinstance(self, train.OnPolicyTrainer):
                    raise kind(SAID)

            for handle in handles:
                handle.remove()
            # the embeddings' gradient comes last: those of the layers are there by then
            handles[:] = [next(iter(model.parameters())).register_hook(fail)]
            return loss, terms

        return hook

    monkeypatch.setattr(LanguageModelTrainer, "compute_step", hooked(compute_step))
    monkeypatch.setattr(train.DistillationTrainer, "compute_step", hooked(kept))


def close(run, other, phase):
    """Return whether the logged steps of two runs are equal to 1e-6."""
    mine, theirs = losses(run, phase), losses(other, phase)
    assert len(mine) == len(theirs) == 5
    for line, expected in zip(mine, theirs, strict=True):
        for value, wanted in zip(line, expected, strict=True):
            assert value == (wanted if wanted is None else pytest.approx(wanted, rel=2e-6))


@pytest.mark.parametrize(
    ("phase", "fits", "loss", "masking"),
    [("student", 2, "auto", False), ("student", 1, "uld", True), ("baseline", 1, "auto", True)],
)
def test_the_same_steps_are_made_of_smaller_micro_batches(
    place, tmp_path, monkeypatch, capsys, phase, fits, loss, masking
):
    folder, _, _, teacher = place
    config = make_config(folder, train=TRAIN | {"masking": {"enabled": masking}}, distill={"loss": loss})
    data = make_data(config, folder)
    whole, run, sizes = make_run(tmp_path, "whole"), make_run(tmp_path, "cut"), []

    def go(run):
        plan = make_plan(config, run, data)
        return train.distill(plan, teacher) if phase == "student" else train.train_baseline(plan)

    expected = go(whole)
    with monkeypatch.context() as patch:
        lack_memory(patch, fits, 2, sizes)
        result = go(run)
    assert "note: out of memory at step 2 (CUDA out of memory. Tried to allocate 2.00 GiB.): " in (
        out := capsys.readouterr().out
    )
    assert out.count("out of memory at step") == {2: 1, 1: 2}[fits] and "micro-batches of 2 instead of 4" in out
    assert sizes[-2:] == [fits, fits] and max(sizes[-8:]) == fits
    assert result.tokens == expected.tokens
    close(run, whole, phase)


def test_it_is_remembered_for_the_session_that_goes_on(place, tmp_path, monkeypatch):
    folder, _, _, teacher = place
    config = make_config(folder, train=TRAIN | {"time_budget_hours": 1.0})
    data, sizes, more = make_data(config, folder), [], []
    whole, run = make_run(tmp_path, "whole"), make_run(tmp_path, "cut")
    monkeypatch.setattr(budget, "elapsed", lambda: 0.0)
    train.distill(make_plan(config, whole, data), teacher)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        seconds = iter(range(100))
        patch.setattr(budget, "elapsed", lambda: 3598.0 + next(seconds))
        lack_memory(patch, 2, 1, sizes)
        train.distill(make_plan(config, run, data), teacher)
    (kept,) = run.path.glob("checkpoints/student/checkpoint-2/micro_batch.json")
    assert json.loads(kept.read_text()) == {"parts": 2}
    with monkeypatch.context() as patch:
        lack_memory(patch, 2, 1, more)
        train.distill(make_plan(config, run, data), teacher, resume=True)
    assert sizes[0] == 4 and set(more) == {2}
    close(run, whole, "student")


def test_the_next_stages_know_it_too_and_so_does_a_session_that_goes_on_there(place, tmp_path, monkeypatch, capsys):
    folder, _, _, teacher = place
    own = {"prompt_length": 2, "max_new_tokens": 4}
    steps = [{"name": "a", "max_steps": 1}, {"name": "own", "max_steps": 1, "on_policy": own}]
    steps.append({"name": "c", "max_steps": 3})
    config = make_config(folder, train=TRAIN | {"stages": steps, "time_budget_hours": 1.0})
    data, run, sizes, more = make_data(config, folder), make_run(tmp_path), [], []
    plan = make_plan(config, run, data)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        # the time is up behind the second step, the only one of the stage in which the student writes
        patch.setattr(budget, "elapsed", lambda: 0.0 if len(sizes) < 7 else 3600.0)
        lack_memory(patch, 2, 1, sizes)
        train.distill(plan, teacher)
    assert run.progress()["step"] == 2
    assert sizes[:5] == [4, 2, 2, 2, 2] and max(sizes[5:]) > 2, "a stage that cannot cut reads whole micro-batches"
    monkeypatch.setattr(budget, "elapsed", lambda: 0.0)
    lack_memory(monkeypatch, 2, 1, more)
    train.distill(plan, teacher, resume=True)
    assert set(more) == {2} and capsys.readouterr().out.count("out of memory at step") == 1


def test_what_cannot_be_cut_is_refused_with_the_setting_to_change(place, tmp_path, monkeypatch):
    folder, config, data, teacher = place
    lack_memory(monkeypatch, 0, 1, [])
    with pytest.raises(UserError, match=r"a single sequence is too much; set train.batch_size=2 train.gradient_acc"):
        train.distill(make_plan(config, make_run(tmp_path), data), teacher)
    compared = make_config(folder, train=TRAIN, distill={"weights": {"feature": 1.0}})
    with pytest.raises(UserError, match=r"its loss compares what stands in one; set train.batch_size=2 train.gradient"):
        train.distill(make_plan(compared, make_run(tmp_path, "layers"), data), teacher)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError(SAID), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes."), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_are_about_memory(error, is_one):
    assert is_out_of_memory(error) is is_one


def test_the_cpus_own_words_are_known():
    with pytest.raises(RuntimeError) as stop:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(stop.value)


def test_the_teacher_is_gone_when_its_answers_are_cached(tmp_path, monkeypatch):
    kept = {"enabled": True, "mode": "top_k", "top_k": 8}
    config = short_teacher(make_config(tmp_path, train=TRAIN, cache=kept))
    data = make_data(config, tmp_path)
    plan = make_plan(config, make_run(tmp_path), data)
    models = []
    prepare = source.prepare_teacher

    def watch(*arguments):
        teacher = prepare(*arguments)
        models.append(weakref.ref(teacher.model))
        return teacher

    monkeypatch.setattr(source, "prepare_teacher", watch)
    cached = source.open_teacher(plan)
    gc.collect()
    assert models and not any(model() for model in models)
    students = []
    begin = train.begin_student
    monkeypatch.setattr(train, "begin_student", lambda *a: students.append(weakref.ref((b := begin(*a))[0])) or b)
    train.distill(plan, cached)
    gc.collect()
    assert students and not any(student() for student in students), "the next phase has the memory for its own"


def test_a_disk_that_fills_up_at_a_checkpoint_is_one_line_and_the_one_before_goes_on(place, tmp_path, monkeypatch):
    folder, *_ = place
    config = make_config(folder, train=TRAIN | {"save_every": 2})
    data = make_data(config, folder)
    whole, run = make_run(tmp_path, "whole"), make_run(tmp_path, "full")
    train.train_baseline(make_plan(config, whole, data))
    save = LanguageModelTrainer._save_optimizer_and_scheduler

    def fill(self, output_dir):
        if self.state.global_step == 4:
            raise RuntimeError("[enforce fail at inline_container.cc:668] . PytorchStreamWriter failed writing file")
        save(self, output_dir)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="--runs-dir: expected a folder to write to"):
        patch.setattr(LanguageModelTrainer, "_save_optimizer_and_scheduler", fill)
        train.train_baseline(make_plan(config, run, data))
    train.train_baseline(make_plan(config, run, data), resume=True)
    assert losses(run, "baseline") == losses(whole, "baseline")
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("kdkit.runs.disk.shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="expected room for 2 checkpoints of "):
        train.train_baseline(make_plan(config, make_run(tmp_path, "small"), data))
