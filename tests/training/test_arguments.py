"""What Trainer is told of two GPUs: it must not copy the student to both."""

from functools import cached_property

import torch
from transformers import TrainingArguments

from kdkit.machine.hardware import PLANNED, choose_hardware
from kdkit.training.arguments import make_training_arguments
from tests.tiny import make_config


def test_two_gpus_in_one_process_are_never_data_parallel(tmp_path, monkeypatch):
    """Trainer wraps a model in nn.DataParallel where it counts more than one."""

    def find_two(self):
        self._n_gpu = 2
        return torch.device("cuda:0")

    devices = cached_property(find_two)
    devices.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", devices)
    assert TrainingArguments(output_dir=str(tmp_path)).n_gpu == 2
    hardware = choose_hardware(PLANNED["t4x2"])
    arguments = make_training_arguments(make_config(tmp_path).train, hardware, tmp_path, max_steps=6, seed=0)
    assert arguments.fp16 and not arguments.bf16
    assert arguments.n_gpu == 1 and arguments.train_batch_size == 4
