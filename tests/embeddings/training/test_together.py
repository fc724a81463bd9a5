"""Two processes (gloo) with half a batch each train as one does with the whole."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kdkit.cli import main
from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.models.embedder import encode, load_embedding_model
from kdkit.embeddings.teacher.probe import probe_embedding_teacher
from kdkit.embeddings.training.train import distill_all
from kdkit.embeddings.training.trainer import EmbeddingTrainer
from kdkit.errors import UserError
from kdkit.runs.folder import Run
from kdkit.runs.open_run import open_embedding_run
from kdkit.training.together import Processes, join_processes
from kdkit.workflow.helpers import dismiss_helpers
from tests.embedders import cpu, make_session, save_teacher, write_sentences
from tests.processes import join_group, run_two

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = {
    "cosine": "cosine",
    "rkd": "{name: rkd, task_weight: 0.1}",
    "similarity_kl": "similarity_kl",
    "dskd": "dskd",
    "dskd by words": "{name: dskd, token_link: word_attention}",
    "stella": "{name: stella, dimensions: [8, 16], max_comparisons: 20}",
    "talas": "talas",
    "emo": "emo",
    "list_kl": "list_kl",
    "simcse": "simcse",
    **{name: name for name in ("cdm", "leaf", "layer_reduction", "margin_mse")},
}
"""All methods: vectors, relations, contrast, aligned tokens, learned links, draws, two-pass steps, attention, lists."""


def settings(folder, case, batch_size, *more):
    """Return a configuration's file, and what a case changes in it."""
    values = [
        f"method={CASES[case]}",
        f"data.path={folder / 'plain.csv'}",
        f"teacher.path={folder / 'teacher'}",
        f"cache_dir={folder / 'cache'}",
        "data.max_length=16",
        "data.evaluation_fraction=0.2",
        "student={path: build, build: {hidden_size: 16, num_layers: 2}}",
        f"train={{per_device_train_batch_size: {batch_size}, gradient_accumulation_steps: 2, max_steps: 4}}",
        "train.warmup_steps=0",
        "train.log_every=1",
        "train.learning_rate=1e-3",
        "train.dropout=never",
    ]
    return [*values, *more]


def distil(folder, name, overrides, resume=False, processes=Processes()):  # noqa: B008 - it cannot be changed
    config, run = open_embedding_run(str(folder / "run.yaml"), overrides, name.replace(" ", "-"), str(folder / "runs"))
    session = make_session(config, run)
    with processes.first_before_others():
        data = prepare_sentences(session, None)
        probe_embedding_teacher(session, data)
    distill_all(session, data, resume=resume)
    return run


def measured(run):
    return [
        {name: value for name, value in line.items() if name.endswith("loss") or name == "grad_norm"}
        for line in run.read_metrics()
        if "loss" in line
    ]


def vectors(run):
    student = load_embedding_model(str(run.path / "student"), "student.path")
    return encode(student, ["the cat sat", "a dog ran then", "it was not very quick"], 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("together")
    save_teacher(path / "teacher")
    write_sentences(path / "plain.csv", 80)
    (path / "run.yaml").write_text("method: cosine\n")
    return path


def train_as_process(rank: int, port: int, folder: Path) -> None:
    """Train every case as one of two processes, and one in two goes."""
    join_group(rank, port)
    both, _ = join_processes(cpu())  # in a run the first process prepares, before it calls the others
    for case in CASES:
        distil(folder, f"two {case}", settings(folder, case, 4), processes=both)
    step = EmbeddingTrainer.train_step
    broken = settings(folder, "dskd", 4, "train.save_every=1")
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(EmbeddingTrainer, "train_step", lambda self: raise_interrupt() if self.step == 3 else step(self))
        distil(folder, "broken", broken, processes=both)
    distil(folder, "broken", broken, resume=True, processes=both)


def raise_interrupt():
    raise KeyboardInterrupt


def test_two_processes_train_as_one(folder):
    run_two(train_as_process, folder, preload=("tests.embedders",))
    for case in CASES:
        one = distil(folder, f"one {case}", settings(folder, case, 8))
        two = Run(folder / "runs" / f"two {case}".replace(" ", "-"), folder / "cache")
        assert len(measured(one)) == len(measured(two)) == 4, case
        for line, other in zip(measured(one), measured(two), strict=True):
            assert other == pytest.approx(line, rel=1e-5, abs=1e-5), case
        # not the weights: Adam moves one whose gradient is rounding alone, a key's bias, by its sign
        np.testing.assert_allclose(vectors(two), vectors(one), rtol=0, atol=1e-4, err_msg=case)
        assert one.read_json("training.json").keys() == two.read_json("training.json").keys()
    broken = Run(folder / "runs" / "broken", folder / "cache")
    assert measured(broken) == measured(Run(folder / "runs" / "two-dskd", folder / "cache"))


def help_or_train(rank: int, port: int, folder: Path, trains: bool) -> None:
    """Be the process whose notebook trains or has nothing to train, or one that `kdkit run` makes a helper."""
    join_group(rank, port)
    overrides = settings(folder, "simcse", 4, "train.dropout=auto")
    words = [word for override in overrides for word in ("-p", override)]
    command = ["run", str(folder / "run.yaml"), *words, "--name", "helped", "--runs-dir", str(folder / "runs")]
    if rank == 1:
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 0
    elif trains:
        distil(folder, "helped", overrides)
    else:
        dismiss_helpers(open_embedding_run(str(folder / "run.yaml"), overrides, "helped", str(folder / "runs"))[0])
    (folder / f"{trains}-{rank}.done").touch()


def test_the_command_makes_every_other_process_a_helper(folder):
    for trains in (True, False):
        run_two(help_or_train, folder, trains, preload=("tests.embedders",))
        assert (folder / f"{trains}-0.done").is_file() and (folder / f"{trains}-1.done").is_file()
    assert len(measured(Run(folder / "runs" / "helped", folder / "cache"))) == 4


def refuse_or_help(rank: int, port: int, folder: Path) -> None:
    """Be the first process, which refuses its own batch and ends, or its helper."""
    join_group(rank, port)
    overrides = settings(folder, "rkd", 1, "method={name: rkd}")
    words = [word for override in overrides for word in ("-p", override)]
    if rank == 0:
        with pytest.raises(UserError, match=r"^train.per_device_train_batch_size: expected at least 3 sentences"):
            distil(folder, "refused", overrides)
        os._exit(0)  # as a process that ends: its connections close
    with pytest.raises(SystemExit) as ended:
        main(["run", str(folder / "run.yaml"), *words, "--name", "refused", "--runs-dir", str(folder / "runs")])
    assert ended.value.code == 0


def test_a_helper_ends_quietly_when_the_first_process_refuses(folder):
    # with an error of its own the launcher would end the first one before it has said why
    run_two(refuse_or_help, folder, preload=("tests.embedders",))


def test_a_process_that_is_alone_exchanges_nothing():
    own, alone = torch.randn(3, 2, requires_grad=True), Processes()
    assert alone.gather(own) is own and alone.agree("x") == "x" and alone.part_of(6) == slice(0, 6)


def test_parts_of_a_batch_cover_it_once():
    rows = list(range(12))
    assert [row for rank in range(3) for row in rows[Processes(3, rank).part_of(12)]] == rows


def distil_by_command(rank: int, port: int, folder: Path) -> None:
    """Call the verb as one of two processes."""
    join_group(rank, port)
    words = [word for override in settings(folder, "cosine", 4) for word in ("-p", override)]
    with pytest.raises(SystemExit) as ended:
        main(["distill", str(folder / "run.yaml"), *words, "--name", "by-command", "--runs-dir", str(folder / "runs")])
    assert ended.value.code == 0


def test_the_verb_distill_trains_without_a_notebook(folder):
    run_two(distil_by_command, folder, preload=("tests.embedders", "kdkit.workflow.machines.distill"))
    by_command = Run(folder / "runs" / "by-command", folder / "cache")
    one = distil(folder, "one beside it", settings(folder, "cosine", 8))
    assert len(measured(by_command)) == 4
    for line, other in zip(measured(one), measured(by_command), strict=True):
        assert other == pytest.approx(line, rel=1e-5, abs=1e-5)
    entry = by_command.status()["06_embedding_distillation"]
    assert (entry["state"], entry["processes"]) == ("trained", 2)
