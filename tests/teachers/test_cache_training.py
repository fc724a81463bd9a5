"""Training from a cache: the same bits as with the teacher; repair makes damaged chunks alone again."""

import shutil
from dataclasses import replace

import pytest
import torch

from kdkit.config.teacher import CacheConfig
from kdkit.distill import open_teacher as source
from kdkit.distill import train
from kdkit.runs.folder import Run
from kdkit.runs.store import open_store
from kdkit.teachers.cache_build import SignalMaker
from tests.caches import MODES, VOCABULARY, flip_chunk, refused, with_cache, with_distill, without_teacher
from tests.tiny import CPU, make_plan, make_run, make_session, make_trainer, save_teacher

NO_CACHE = CacheConfig()

# training


@pytest.mark.parametrize(("loss", "own_tokenizer"), [("forward_kl", False), ("projected_kl", True)])
@pytest.mark.parametrize(("made_at", "wanted"), [(1.0, 0.5), (1.0, 2.0), (1.0, 4.0), (4.0, 4.0), (4.0, 1.0)])
def test_a_cache_trains_like_the_teacher_at_its_own_temperature_and_at_another(
    place, tmp_path, capsys, made_at, wanted, loss, own_tokenizer
):
    made = place.config(loss, own_tokenizer=own_tokenizer, temperature=made_at)
    made = with_cache(made, top_k=290 if own_tokenizer else VOCABULARY)
    warm = with_distill(with_cache(made, file=str(place.open(made).store.path)), temperature=wanted)
    capsys.readouterr()
    signals = place.open(warm)
    said = capsys.readouterr().out
    if made_at == wanted:
        assert said == ""
    else:
        assert said.count("\n") == 1 and f"made at temperature {made_at:g}, converted to {wanted:g}" in said
    data = place.data(warm)
    teacher = source.prepare_teacher(make_session(warm, place.run()), data)
    logs = []
    for number, asked in enumerate((signals, teacher)):
        trainer = make_trainer(warm, make_run(tmp_path, f"warm{number}"), data, asked, steps=2)
        trainer.train()
        logs.append([line["kd_loss"] for line in trainer.state.log_history if "loss" in line])
    # all events are kept, so only their rounding to 1/16 nat is left
    assert logs[0] == pytest.approx(logs[1], rel=5e-3)


def test_nothing_is_said_about_a_cache_at_the_same_temperature(place, capsys):
    place.open(place.mode("top_k"))
    capsys.readouterr()
    place.open(place.mode("top_k"))
    assert capsys.readouterr().out == ""


def test_answers_in_another_precision_stand_apart_are_told_and_are_repaired_in_their_own(place, tmp_path, capsys):
    config, half = place.mode("top_k"), replace(CPU, cpu_bf16="avx512_bf16")
    data, run = place.data(config), place.run()
    made = {hardware: source.open_teacher(make_plan(config, run, data, hardware)).store for hardware in (CPU, half)}
    assert made[CPU].path != made[half].path
    assert [made[hardware].header.get("precision") for hardware in (CPU, half)] == [None, "bf16"]
    for hardware, other in ((CPU, half), (half, CPU)):
        named = with_cache(config, file=str(made[other].path))
        capsys.readouterr()
        source.open_teacher(make_plan(named, run, data, hardware))
        said, there, here = capsys.readouterr().out, *(["bf16", "fp32"] if hardware is CPU else ["fp32", "bf16"])
        assert said.count("\n") == 1 and f"teacher in {there}" in said and f"answer in {here}" in said
    teacher = source.open_teacher(make_plan(config.model_copy(update={"cache": NO_CACHE}), run, data, half))
    assert teacher.model.dtype == torch.bfloat16
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        prepare = source.prepare_teacher
        patch.setattr(source, "prepare_teacher", lambda *given: asked.append(given[2]) or prepare(*given))
        shutil.copy(made[half].path, copy := tmp_path / "copy.h5")
        flip_chunk(copy, 0)
        assert source.repair_cache(copy, run) == [0]
    assert asked == [torch.bfloat16] and open_store(copy).read(made[half].keys[0]).keys() == {"gaps", "levels", "rest"}


@pytest.mark.parametrize("mode", MODES)
def test_training_from_a_cache_loads_no_teacher_and_repeats_bit_for_bit(place, tmp_path, monkeypatch, mode):
    data = place.data(config := place.mode(mode))
    place.open(config).store.close()
    files = []
    with without_teacher(monkeypatch):
        for name in ("first", "second"):
            run = make_run(tmp_path, name)
            run = Run(run.path, place.folder / "cache")
            train.distill(make_plan(config, run, data), source.open_teacher(make_plan(config, run, data)))
            losses = [line["loss"] for line in run.read_metrics() if "loss" in line]
            files.append((losses, (run.path / "student" / "model.safetensors").read_bytes()))
    assert files[0] == files[1]
    assert len(files[0][0]) == 6


@pytest.mark.parametrize(
    ("loss", "cache"),
    [
        ("forward_kl", {"top_k": VOCABULARY, "tail": "keep_mass"}),
        ("forward_kl", {"top_k": VOCABULARY, "tail": "renormalise"}),
        ("jsd", {"top_k": VOCABULARY}),
        ("alm", {"mode": "true_token"}),
    ],
)
def test_training_from_a_cache_of_everything_is_training_with_the_teacher(place, tmp_path, loss, cache):
    config = place.config(loss, **cache)
    data = place.data(config)
    teacher = source.prepare_teacher(make_session(config, place.run()), data)
    logs = []
    for number, asked in enumerate((place.open(config), teacher)):
        trainer = make_trainer(config, make_run(tmp_path, str(number)), data, asked, steps=3)
        trainer.train()
        lines = [line for line in trainer.state.log_history if "loss" in line]
        logs.append([line[name] for line in lines for name in ("loss", "kd_loss", "grad_norm")])
    assert logs[0] == pytest.approx(logs[1], rel=1e-3)


# damage and repair


@pytest.mark.parametrize("mode", MODES)
def test_a_damaged_chunk_is_named_and_repair_makes_it_alone_again(place, tmp_path, monkeypatch, mode):
    original = place.open(place.mode(mode)).store.path.read_bytes()
    config = place.damaged_copy(place.mode(mode), path := tmp_path / "a.h5", 3)
    with without_teacher(monkeypatch), refused("a.h5", "others in chunk 3;", f"python -m kdkit cache repair {path}"):
        place.open(config)
    asked: list[str] = []
    make = SignalMaker.make
    monkeypatch.setattr(SignalMaker, "make", lambda self, keys: make(self, asked.extend(keys) or keys))
    assert source.repair_cache(path, Run(tmp_path / "runs" / "repair", place.folder / "cache")) == [3]
    assert asked == open_store(path).document["chunks"][3]
    assert path.read_bytes() == original


def test_a_whole_cache_is_not_repaired(place, tmp_path, monkeypatch):
    place.damaged_copy(place.mode("top_k"), path := tmp_path / "a.h5")
    with without_teacher(monkeypatch):
        assert source.repair_cache(path, place.run()) == []
    assert path.read_bytes() == place.open(place.mode("top_k")).store.path.read_bytes()


def test_a_cache_is_not_repaired_with_another_teacher(place, tmp_path):
    weights = place.teacher / "model.safetensors"
    place.damaged_copy(place.mode("top_k"), path := tmp_path / "a.h5", 1)
    damaged, kept = path.read_bytes(), weights.read_bytes()
    try:
        save_teacher(place.data(place.mode("top_k")), tmp_path / "other", seed=2)
        shutil.copy(tmp_path / "other" / "model.safetensors", weights)
        with refused("teacher.weights: got "):
            source.repair_cache(path, Run(tmp_path / "runs" / "repair", place.folder / "cache"))
    finally:
        weights.write_bytes(kept)
    assert path.read_bytes() == damaged


def test_a_cache_is_not_repaired_from_another_text(place, tmp_path, monkeypatch):
    place.damaged_copy(place.mode("top_k"), path := tmp_path / "a.h5", 1)
    corpus = place.folder / "corpus.txt"
    damaged, kept = path.read_bytes(), corpus.read_text()
    try:
        corpus.write_text(kept.replace("fox", "cat"))
        with without_teacher(monkeypatch), refused("a.h5: expected the text that it was made from", "8 of the 8"):
            source.repair_cache(path, Run(tmp_path / "runs" / "repair", place.folder / "cache"))
    finally:
        corpus.write_text(kept)
    assert path.read_bytes() == damaged and not (tmp_path / "a.h5.parts").exists()
