"""Caches that do not fit, are damaged or cannot serve a loss: refused by name, before anything is made."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.config.language import Config
from kdkit.data.windows import PAD
from kdkit.distill import open_teacher as source
from kdkit.teachers import cache as cache_module
from tests.caches import MODES, VOCABULARY, Place, refused, with_cache, with_distill, without_teacher
from tests.tiny import (
    WORDS,
    make_config,
    make_data,
    make_plan,
    make_run,
    make_trainer,
    plan_stages,
    save_teacher,
    write_corpus,
)

# refused


def another_teacher(place: Place, config: Config, tmp_path: Path) -> Config:
    folder = save_teacher(place.data(config), tmp_path / "other", seed=2)
    return config.model_copy(update={"teacher": config.teacher.model_copy(update={"path": str(folder)})})


def another_teacher_tokenizer(place: Place, config: Config, tmp_path: Path) -> Config:
    folder = Path(shutil.copytree(place.teacher, tmp_path / "other"))
    train_tokenizer([" ".join(WORDS[::-1]) * 9, "zebra " * 40], VOCABULARY).save_pretrained(folder)
    return config.model_copy(update={"teacher": config.teacher.model_copy(update={"path": str(folder)})})


def another_student_tokenizer(place: Place, config: Config, tmp_path: Path) -> Config:
    build = config.student.build.model_copy(update={"vocab_size": 280})
    return config.model_copy(update={"student": config.student.model_copy(update={"build": build})})


def another_corpus(place: Place, config: Config, tmp_path: Path) -> Config:
    path = write_corpus(tmp_path / "corpus.txt", 70)
    path.write_text(path.read_text().replace("fox", "cat"))
    return config.model_copy(update={"data": config.data.model_copy(update={"path": str(path)})})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (another_teacher, ["teacher.weights: got "]),
        (another_teacher_tokenizer, ["teacher_tokenizer: got "]),
        (another_student_tokenizer, ["student_tokenizer: got "]),
        (another_corpus, ["records of ", "got none of "]),
        (lambda place, config, _: with_cache(config, top_k=9), ["top_k: got 8, expected 9"]),
        (lambda place, config, _: with_cache(config, mode="sampled"), ["mode: got 'top_k', expected 'sampled'"]),
        (
            lambda place, config, _: with_cache(
                with_distill(config, loss=place.config("alm").distill.loss), mode="true_token"
            ),
            ["mode: got 'top_k', expected 'true_token'"],
        ),
        (
            lambda place, config, _: with_distill(config, loss=place.config("overlap_kl").distill.loss),
            ["events: got 'student tokens', expected 'common tokens'"],
        ),
    ],
    ids=["teacher", "teacher tokenizer", "student tokenizer", "corpus", "k", "sampled", "true_token", "loss"],
)
def test_a_cache_of_something_else_is_refused_by_name(place, made, tmp_path, monkeypatch, change, words):
    changed = change(place, made, tmp_path)
    if change is another_corpus:  # the student's tokenizer is trained on the corpus: the teacher's is not
        made = with_cache(place.config(), file=str(place.open(place.config()).store.path))
        changed = another_corpus(place, made, tmp_path)
    data = make_data(changed, tmp_path)
    with without_teacher(monkeypatch):
        for function in (source.open_teacher, source.open_cache, source.build_cache):
            with refused(changed.cache.file, *words):
                function(make_plan(changed, place.run(), data))


def test_another_number_of_samples_is_refused(place, monkeypatch):
    config = with_cache(place.mode("sampled"), file=str(place.open(place.mode("sampled")).store.path))
    with without_teacher(monkeypatch), refused("num_samples: got 50, expected 49"):
        place.open(with_cache(config, num_samples=49))


def test_numbers_of_another_meaning_are_refused(place, made, monkeypatch):
    monkeypatch.setattr(cache_module, "MEANING", cache_module.MEANING + 1)
    with (
        without_teacher(monkeypatch),
        refused(f"meaning: got {cache_module.MEANING - 1}, expected {cache_module.MEANING}"),
    ):
        place.open(made)


def made_at(place: Place, temperature: float, tmp_path: Path, vocab_size: int = 290, **cache: object) -> Config:
    """Return the configuration of a cache of projected answers at a temperature, which is made."""
    config = place.config("projected_kl", own_tokenizer=True, vocab_size=vocab_size, temperature=temperature, **cache)
    config = with_cache(config, file=str(tmp_path / "a.h5"))
    place.open(config)
    return config


def test_tokens_tempered_before_they_were_summed_are_refused_with_the_reason(place, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "SUMMED", "nothing")  # an older build left no word about it
        config = made_at(place, 4.0, tmp_path)
    data = place.data(config)
    for wanted in (4.0, 1.0):
        with (
            without_teacher(monkeypatch),
            refused("a.h5", "tempered (at 4) before they were summed", "delete the file"),
        ):
            place.open(with_distill(config, temperature=wanted), data)


@pytest.mark.parametrize(("temperature", "vocab_size"), [(1.0, 290), (4.0, 500)])
def test_older_answers_that_mean_today_what_they_meant_then_are_served(
    place, tmp_path, monkeypatch, temperature, vocab_size
):
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "SUMMED", "nothing")
        config = made_at(place, temperature, tmp_path, vocab_size)
    with without_teacher(monkeypatch):
        place.open(config)
        place.open(with_distill(config, temperature=2.0))


def test_drawn_answers_are_served_at_their_own_temperature_only(place, tmp_path, monkeypatch):
    config = made_at(place, 2.0, tmp_path, mode="sampled", num_samples=50)
    with without_teacher(monkeypatch):
        place.open(config)
        with refused("a.h5", "drawn at temperature 1", "drawn at 2", "distill.temperature=2"):
            place.open(with_distill(config, temperature=1.0))
    stages = [{"name": "warm", "max_steps": 2}, {"name": "cold", "max_steps": 2, "temperature": 1.0}]
    staged = make_config(
        place.folder,
        distill={"loss": "projected_kl", "temperature": 2.0},
        train={"stages": stages},
        cache={"enabled": True, "mode": "sampled"},
    )
    with refused("distill.temperature, 2", "got 1 in stage 'cold'", "cache.mode=top_k"):
        plan_stages(staged, make_data(staged, place.folder))


def test_another_format_is_refused(place, made, tmp_path, monkeypatch):
    path = Path(shutil.copy(made.cache.file, tmp_path / "old.h5"))
    with h5py.File(path, "r+") as file:
        file.attrs["kdkit_store"] = 99
    with without_teacher(monkeypatch), refused("format 2, got format 99"):
        place.open(with_cache(made, file=str(path)))


@pytest.mark.parametrize("kind", ["text", "empty", "foreign", "cut short", "cut by a byte", "header"])
def test_a_file_that_is_no_whole_cache_is_refused_and_left_alone(place, made, tmp_path, monkeypatch, kind):
    content, path = bytearray(Path(made.cache.file).read_bytes()), tmp_path / "a.h5"
    if kind == "header":
        with h5py.File(made.cache.file) as file:
            content[file["header"].id.get_offset() + 30] ^= 4
    whole = {"text": b"id,logprob\n1,-0.5\n", "empty": b"", "cut short": content[:9000], "cut by a byte": content[:-1]}
    if kind == "foreign":
        with h5py.File(path, "w") as file:
            file["logits"] = np.zeros((4, 5))
    else:
        path.write_bytes(whole.get(kind, content))
    before = path.read_bytes()
    with without_teacher(monkeypatch):
        for function in (source.open_teacher, source.build_cache):
            with refused("a.h5: expected "):
                function(make_plan(with_cache(made, file=str(path)), place.run(), place.data(made)))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_missing_cache_is_named_when_only_reading_was_asked(place, made, tmp_path):
    with refused("nowhere.h5", "no such file", "build it first"):
        source.open_cache(make_plan(with_cache(made, file=str(tmp_path / "nowhere.h5")), place.run(), place.data(made)))


def test_keeping_more_tokens_than_there_are_is_refused(place, tmp_path):
    config = place.config(top_k=VOCABULARY + 1, file=str(tmp_path / "a.h5"))
    with refused("cache.top_k: expected at most 320", "got 321"):
        place.open(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("loss", "cache", "words"),
    [
        ("uld", {}, ["'uld'", "the teacher's whole row"]),
        ("gold", {}, ["'gold'", "the teacher's whole row"]),
        ("xtoken_p_kl", {}, ["'xtoken_p_kl'", "the teacher's whole row"]),
        ("xtoken_h_kl", {}, ["'xtoken_h_kl'", "the teacher's whole row"]),
        ("cdm", {}, ["'cdm'", "the teacher's whole row"]),
        ({"name": "projected_kl", "divergence": "reverse_kl"}, {"tail": "keep_mass"}, ["'reverse_kl'", "tail=ghost"]),
        ({"name": "projected_kl", "divergence": "jsd"}, {"tail": "keep_mass"}, ["'jsd'", "cache.tail=ghost"]),
        ({"name": "overlap_kl", "divergence": "reverse_kl"}, {"tail": "renormalise"}, ["'reverse_kl'", "tail=ghost"]),
        ({"name": "projected_kl", "divergence": "tvd"}, {"mode": "sampled"}, ["'tvd'", "expected forward_kl"]),
        ("projected_kl", {"mode": "true_token"}, ["'projected_kl'", "distributions, not true tokens"]),
        ("alm", {}, ["cache.mode: expected true_token for 'alm'", "got 'top_k'"]),
    ],
)
def test_a_loss_that_a_cache_cannot_serve_is_refused_before_anything_is_made(
    place, tmp_path, monkeypatch, loss, cache, words
):
    config = place.config(loss, own_tokenizer=True, file=str(tmp_path / "a.h5"), **cache)
    data = place.data(config)
    with without_teacher(monkeypatch):
        with refused(*words):
            place.open(config, data)
        with refused(*words):
            plan_stages(config, data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("divergence", ["reverse_kl", "jsd", "tvd", "adaptive_kl", "skewed_reverse_kl"])
def test_every_divergence_is_served_with_the_ghost_tail(place, divergence):
    config = place.config(divergence)
    plan_stages(config, place.data(config))
    trainer = make_trainer(config, make_run(place.folder, divergence), place.data(config), place.open(config), steps=1)
    trainer.train()
    assert np.isfinite(trainer.state.log_history[0]["kd_loss"])


# a teacher whose numbers are none


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("mode", MODES)
def test_logits_that_are_no_numbers_stop_the_build_with_the_sequence(place, tmp_path, monkeypatch, mode, value):
    data = place.data(config := with_cache(place.mode(mode), file=str(tmp_path / "a.h5")))
    first_row: dict[int, int] = {}
    for row, ids in enumerate(np.asarray(data.train.teacher_ids)):
        for token in ids[ids != PAD][:-1].tolist():  # the last one predicts nothing
            first_row.setdefault(token, row)
    # a token of later chunks, and not one of those that the head is checked with
    token, row = next((t, r) for t, r in first_row.items() if r >= 16 and (t % 7 or t > 49))
    prepare_teacher = source.prepare_teacher

    def poisoned(*arguments):
        teacher = prepare_teacher(*arguments)
        teacher.model.get_input_embeddings().weight[token] = value
        return teacher

    with monkeypatch.context() as patch:
        patch.setattr(source, "prepare_teacher", poisoned)
        with refused(f"NaN or inf for training sequence {row};"):
            place.open(config, data)
    assert not (tmp_path / "a.h5").exists()
    assert len(list(tmp_path.glob("a.h5.parts/*.h5"))) == row // 8


def test_sums_of_tokens_that_a_sentencepiece_student_cuts_say_how_they_were_cut(real_tokenizer, tmp_path):
    tokenizers = [real_tokenizer(name) for name in ("stories260K", "gpt2")]
    for student, teacher, expected in ((*tokenizers, {"cut"}), (*tokenizers[::-1], set())):
        data = SimpleNamespace(student_tokenizer=student, teacher_tokenizer=teacher)
        header = cache_module.describe_cache(make_config(tmp_path), data, {}, cache_module.SUMMED, "fp32")
        assert header.keys() & {"cut"} == expected
