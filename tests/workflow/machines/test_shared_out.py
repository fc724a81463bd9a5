"""FSDP2 on CPUs (gloo): a student whose parameters two processes share out trains as a whole one does.

accelerate 1.15 takes FSDP for GPUs only, so it is told here that these are some; the rest is its own and torch's.
"""

import os

import pytest

from kdkit.cli import main
from kdkit.config.language import dump_config
from kdkit.errors import UserError
from kdkit.machine.interrupt import StopRequest
from kdkit.models.loading import load_causal_lm
from kdkit.runs.folder import Run
from kdkit.workflow.machines.distill import check_sharing
from tests.processes import join_group, run_two
from tests.tiny import make_config
from tests.workflow.machines.test_distill import BUILD, PRELOAD, distil, trajectory

pytestmark = pytest.mark.usefixtures("one_thread")

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_OFFLOAD_PARAMS": "false",
}
"""What accelerate makes of configs/accelerate/fsdp2.yaml."""


def share_on_cpus(rank, port):
    """Be one of two processes that share parameters out."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    join_group(rank, port)
    os.environ.update(FSDP)

    def prepare(self, *arguments, **options):
        if "WORLD_SIZE" not in os.environ:
            return None, DistributedType.NO
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        return "gloo", DistributedType.MULTI_GPU

    PartialState._prepare_backend = prepare
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))


def train_in_two_goes(rank, port, path, is_first_go):
    """Stop behind the fourth step, or go on from there."""
    share_on_cpus(rank, port)
    runs = str(path.parent / "runs")
    words = ["distill", str(path), "-p", "train.batch_size=4", "--name", "two", "--runs-dir", runs]
    if is_first_go:
        looked = []

        def look(self):
            """Ask to stop behind the fourth step of those that both make."""
            if "WORLD_SIZE" in os.environ:
                looked.append(0)
                self.wanted = len(looked) == 4
            return self.wanted

        StopRequest.look = look
    with pytest.raises(SystemExit) as ended:
        main([*words, *([] if is_first_go else ["--resume"])])
    assert ended.value.code == (130 if is_first_go and rank == 0 else 0)


@pytest.mark.slow
def test_a_student_that_is_shared_out_is_trained_stopped_and_gone_on_with(tmp_path):
    train = {"gradient_accumulation_steps": 1, "precision": "fp32", "save_every": 100, "max_steps": 7}
    distill = {"equal_time_baseline": False}
    built = {"build": BUILD | {"vocab_size": 320}}
    config = make_config(tmp_path, cache_dir=str(tmp_path / "cache"), train=train, distill=distill, teacher=built)
    path = tmp_path / "shared.yaml"
    path.write_text(dump_config(config))
    for is_first_go in (True, False):
        run_two(train_in_two_goes, path, is_first_go, preload=PRELOAD)
    one, two = distil(path, "one", 8), Run(tmp_path / "runs" / "two", tmp_path / "cache")
    assert trajectory(two).keys() == trajectory(one).keys()
    for place, line in trajectory(two).items():
        assert line == pytest.approx(trajectory(one)[place], rel=1e-5), place
    models = [load_causal_lm(str(run.path / "student"), "student.path") for run in (one, two)]
    assert type(models[0]) is type(models[1]) and models[1].config.architectures == ["LlamaForCausalLM"]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"train": {"stages": [{"name": "a", "max_steps": 2}, {"name": "b", "max_steps": 2}]}}, "train.stages"),
        ({"train": {"optimizer": "muon"}}, "train.optimizer"),
        ({"distill": {"weights": {"feature": 1.0}}}, "distill.weights"),
    ],
)
def test_what_it_cannot_train_is_named(changes, key, tmp_path, monkeypatch):
    config = make_config(tmp_path, **changes)
    check_sharing(config)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check_sharing(make_config(tmp_path))
    with pytest.raises(UserError, match=f"^{key}: expected one stage of a language model with AdamW"):
        check_sharing(config)
