"""The teacher's answers on disk: what they say, which samples they serve, what is refused, and what a crash leaves."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from kdkit.alignment.prefixes import group_tokens
from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.config.language import Config, dump_config
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import PAD, Windows
from kdkit.distill import open_teacher as source
from kdkit.distill import train
from kdkit.distill.choose_loss import student_is_finer
from kdkit.distill.stages import plan_stages
from kdkit.errors import UserError
from kdkit.runs.folder import Run
from kdkit.runs.store import open_store
from kdkit.teachers import cache as cache_module
from kdkit.teachers.cache import CachedAnswers, cache_fields, window_keys
from kdkit.teachers.cache_build import AnswerMaker, largest
from tests.tiny import CPU, WORDS, make_config, make_data, make_run, make_trainer, save_teacher, write_corpus

STUDENT = {"vocab_size": 290, "hidden_size": 16, "num_layers": 1, "intermediate_size": 32}
VOCABULARY = 320
pytestmark = pytest.mark.usefixtures("one_thread")

MODES = {
    "top_k": {"mode": "top_k", "top_k": 8},
    "sampled": {"mode": "sampled", "num_samples": 50},
    "true_token": {"mode": "true_token"},
}


class Place:
    """A folder with a corpus and a saved teacher, where caches are made."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.teacher = save_teacher(make_data(make_config(folder), folder), folder / "teacher")

    def config(
        self,
        loss: object = "forward_kl",
        *,
        own_tokenizer: bool = False,
        vocab_size: int = 290,
        temperature: float = 1.0,
        **cache: object,
    ) -> Config:
        """Return a configuration with a cache; one tokenizer, or a student with its own, a finer or a coarser one."""
        return make_config(
            self.folder,
            teacher={"path": str(self.teacher)},
            student={"build": STUDENT | {"vocab_size": vocab_size, "tokenizer": "own" if own_tokenizer else "teacher"}},
            distill={"loss": loss, "temperature": temperature},
            cache={"enabled": True, "samples_per_chunk": 8, "top_k": 8} | cache,
        )

    def data(self, config: Config) -> PreparedData:
        return make_data(config, self.folder)

    def run(self, name: str = "run") -> Run:
        return Run(self.folder / "runs" / name, self.folder / "cache")

    def open(self, config: Config, data: PreparedData | None = None) -> CachedAnswers:
        """Open the cache of a configuration, which is made if there is none."""
        return source.open_teacher(config, self.run(), data or self.data(config), CPU)

    def mode(self, name: str) -> Config:
        return self.config("alm" if name == "true_token" else "forward_kl", **MODES[name])

    def damaged_copy(self, config: Config, path: Path, *numbers: int) -> Config:
        """Copy a cache, flip a bit in some of its chunks, and return the configuration that names the copy."""
        shutil.copy(self.open(config).store.path, path)
        for number in numbers:
            with h5py.File(path) as file:
                group = file[f"chunks/{number:05d}"]
                offset = group[next(name for name in group if name != "lengths")].id.get_chunk_info(0).byte_offset
            flip(path, offset + 7)
        return with_cache(config, file=str(path))


def with_cache(config: Config, **changes: object) -> Config:
    return config.model_copy(update={"cache": config.cache.model_copy(update=changes)})


def with_distill(config: Config, **changes: object) -> Config:
    return config.model_copy(update={"distill": config.distill.model_copy(update=changes)})


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(bytes(content))


def chosen(windows: Windows, rows: list[int] | np.ndarray) -> Windows:
    return Windows(*(np.asarray(array)[rows] for array in vars(windows).values()))


@contextmanager
def refused(*words: str):
    """Expect a UserError of one line that holds these words."""
    with pytest.raises(UserError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in (": expected ", ", got ", "; ", *words)), message


@contextmanager
def without_teacher(monkeypatch):
    """Forbid to load a teacher."""

    def fail(*_):
        raise AssertionError("the teacher was loaded")

    with monkeypatch.context() as patch:
        patch.setattr(source, "prepare_teacher", fail)
        patch.setattr(train, "prepare_teacher", fail)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def exact(place) -> Callable[[PreparedData, int], torch.Tensor]:
    """Return a function that computes the teacher's logits for a window in float64: t v."""
    known: dict[str, torch.Tensor] = {}
    model = AutoModelForCausalLM.from_pretrained(place.teacher, dtype=torch.float64, experts_implementation="eager")

    @torch.no_grad()
    def logits(data: PreparedData, row: int) -> torch.Tensor:
        ids = torch.from_numpy(np.array(data.train.teacher_ids, dtype=np.int64))
        if data.key not in known:  # what follows a token does not change what is said about it
            known[data.key] = model.eval()(ids.clamp(min=0)).logits
        return known[data.key][row, : int((ids[row] != PAD).sum())]

    return logits


def event_logprobs(data: PreparedData, loss: str, logits: torch.Tensor, temperature: float) -> np.ndarray:
    """Compute log-probabilities of what a loss compares, in float64."""
    p = torch.softmax(logits / temperature, dim=-1).numpy()
    if loss == "overlap_kl":
        p = p[:, data.overlap.teacher_ids]
    elif loss == "projected_kl" and student_is_finer(data):  # else the events are the teacher's tokens
        groups, size = group_tokens(data.student_tokenizer, data.teacher_tokenizer), data.overlap.student_size
        q = np.zeros((len(p), size + 1))
        for token, event in enumerate(groups):
            q[:, event] += p[:, token]
        p = q[:, :size]
    with np.errstate(divide="ignore"):
        return np.log(p / p.sum(axis=1, keepdims=True))


def decode(record: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and log-probabilities of the kept events of a record, or ids and shares."""
    ids = np.cumsum(record["gaps"].astype(np.int64), axis=1)
    return ids, record["shares"].astype(np.int64) if "shares" in record else record["levels"] / -16.0


def asked_rows(data: PreparedData, row: int) -> np.ndarray:
    """Return the teacher positions of a window that have read what a student position has read."""
    last = int((data.train.student_ids[row] != PAD).sum()) - 1
    positions = np.asarray(data.train.teacher_positions[row, :last])
    return positions[positions != PAD]


# what is stored


@pytest.mark.parametrize(
    ("loss", "temperature", "vocab_size"),
    [
        ("forward_kl", 1.0, 320),
        ("forward_kl", 2.0, 320),
        ("overlap_kl", 1.0, 290),
        ("projected_kl", 3.0, 290),
        ("overlap_kl", 1.0, 500),
        ("projected_kl", 1.0, 500),
    ],
)
def test_top_k_holds_the_most_likely_events_as_the_teacher_says_them(place, exact, loss, temperature, vocab_size):
    own_tokenizer = loss != "forward_kl"
    config = place.config(loss, own_tokenizer=own_tokenizer, vocab_size=vocab_size, temperature=temperature)
    data, answers = place.data(config), place.open(config)
    assert data.same_tokenizer or student_is_finer(data) == (vocab_size < VOCABULARY)
    for row in range(0, len(data.train), 4):
        expected = event_logprobs(data, loss, exact(data, row)[asked_rows(data, row)], temperature)
        got = answers.store.read(answers.keys[row])
        ids, logprobs = decode(got)
        assert ids.shape == logprobs.shape == (len(expected), 8)
        assert (np.diff(ids, axis=1) > 0).all()
        at_ids = np.take_along_axis(expected, ids, axis=1)
        assert np.allclose(logprobs, np.maximum(at_ids, -255 / 16), atol=1 / 32 + 1e-5)
        # the most likely ones; events that are equal to 1e-5 may take each other's place
        largest = -np.sort(-expected, axis=1)[:, :8]
        assert np.allclose(-np.sort(-at_ids, axis=1), largest, rtol=1e-5, atol=1e-5)
        rest = np.log1p(-np.exp(largest).sum(axis=1))
        assert np.allclose(got["rest"], rest, rtol=2**-11, atol=1e-4)  # fp16 keeps 11 bits


@pytest.mark.parametrize("top_k", [1, 8, 64])
def test_kept_and_rest_sum_to_one_when_they_are_read(place, top_k):
    answers = place.open(config := place.config(top_k=top_k))
    got = answers.read([3, 1])
    num_rows = sum(len(asked_rows(place.data(config), row)) for row in (3, 1))
    assert got["kept_ids"].shape == got["kept_logprobs"].shape == (num_rows, top_k)
    assert got["kept_rest"].shape == (num_rows, 1)
    total = got["kept_logprobs"].double().exp().sum(dim=1) + got["kept_rest"].double().exp()[:, 0]
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)
    ids, stored = (
        np.concatenate(x) for x in zip(*(decode(answers.store.read(answers.keys[r])) for r in (3, 1)), strict=True)
    )
    assert np.array_equal(got["kept_ids"], ids)
    # all events of a row are moved alike, by no more than they were rounded
    moved = got["kept_logprobs"].numpy() - stored
    assert np.allclose(moved, moved[:, :1], atol=1e-5) and np.abs(moved).max() <= 1 / 32 + 1e-3


def test_top_k_of_the_whole_vocabulary_leaves_nothing(place, exact):
    data = place.data(config := place.config(top_k=VOCABULARY))
    got = place.open(config).read([2])
    assert got["kept_rest"].exp().eq(0).all()
    assert torch.allclose(got["kept_logprobs"].exp().sum(dim=1), torch.ones(len(got["kept_logprobs"])), atol=1e-6)
    expected = torch.log_softmax(exact(data, 2)[:-1], dim=-1).gather(1, got["kept_ids"].long())
    assert torch.equal(got["kept_ids"], torch.arange(VOCABULARY, dtype=torch.int32).expand_as(got["kept_ids"]))
    assert torch.allclose(got["kept_logprobs"].double(), expected.clamp(min=-255 / 16), atol=1 / 16)
    # rounding is even: the distribution as a whole is nearer than a single event
    assert (expected.exp() * (expected - got["kept_logprobs"])).sum(dim=1).abs().max() < 1e-3


def test_sampled_ids_follow_the_teachers_distribution(place, exact):
    data, answers = place.data(config := place.mode("sampled")), place.open(place.mode("sampled"))
    counts, expected, variance = np.zeros(VOCABULARY), np.zeros(VOCABULARY), np.zeros(VOCABULARY)
    score, score_variance = 0.0, 0.0
    for row in range(len(data.train)):
        p = np.exp(event_logprobs(data, "forward_kl", exact(data, row)[:-1], 1.0))
        ids, shares = decode(answers.store.read(answers.keys[row]))
        assert (shares.sum(axis=1) == config.cache.num_samples).all()
        drawn = np.zeros_like(p)
        for i, used in enumerate(shares > 0):
            assert (np.diff(ids[i][used]) > 0).all()  # an id is stored once
            drawn[i][ids[i][used]] = shares[i][used]
        counts += drawn.sum(axis=0)
        expected += 50 * p.sum(axis=0)
        variance += 50 * (p * (1 - p)).sum(axis=0)
        # how likely the teacher finds what was drawn at this very position
        surprise = -np.log(p)
        mean = (p * surprise).sum(axis=1, keepdims=True)
        score += (drawn * (surprise - mean)).sum()
        score_variance += 50 * (p * (surprise - mean) ** 2).sum()
    z = (counts - expected) / np.sqrt(variance)
    assert np.abs(z).max() < 4.5
    assert np.mean(z**2) == pytest.approx(1.0, abs=0.3)
    assert abs(score) / np.sqrt(score_variance) < 4.0


def test_sampled_shares_are_read_as_probabilities_with_no_rest(place):
    answers = place.open(place.mode("sampled"))
    got, stored = answers.read([5]), answers.store.read(answers.keys[5])
    assert torch.allclose(got["kept_logprobs"].exp(), torch.from_numpy(stored["shares"] / np.float32(50)), atol=1e-6)
    assert got["kept_rest"].exp().eq(0).all()


def test_neighbouring_sequences_are_sampled_independently(place):
    """A generator that started anew for every sequence would draw the same places of the distribution."""
    answers = place.open(place.mode("sampled"))
    first, second = (answers.store.read(answers.keys[row])["shares"] for row in (0, 1))
    assert not np.array_equal(first[:10], second[:10])


@pytest.mark.parametrize("own_tokenizer", [False, True])
def test_true_token_holds_log_softmax_at_the_next_token(place, exact, own_tokenizer):
    config = place.config("alm", own_tokenizer=own_tokenizer, mode="true_token")
    data, answers = place.data(config), place.open(config)
    for row in range(0, len(data.train), 5):
        ids = data.train.teacher_ids[row]
        ids = torch.from_numpy(ids[ids != PAD].astype(np.int64))
        expected = torch.log_softmax(exact(data, row)[:-1], dim=-1).gather(1, ids[1:, None])[:, 0]
        got = answers.read([row])["token_logprobs"]
        assert got.dtype == torch.float32
        assert torch.allclose(got.double(), expected, rtol=2**-11, atol=1e-5)


def test_ids_are_uint16_up_to_65536_events_and_uint32_above(place):
    for mode in ("top_k", "sampled"):
        for num_events, dtype in ((2, "uint16"), (65_536, "uint16"), (65_537, "uint32"), (151_936, "uint32")):
            fields = {field.name: field for field in cache_fields(place.config(mode=mode), num_events)}
            assert fields["gaps"].dtype == dtype
    assert [field.name for field in cache_fields(place.mode("true_token"), 1)] == ["logprobs"]


def test_no_more_ids_are_stored_than_there_are_events(place):
    fields = cache_fields(place.config(mode="sampled", num_samples=255), 100)
    assert [field.width for field in fields] == [100, 100]


@pytest.mark.parametrize(("width", "count"), [(5, 5), (320, 8), (321, 19), (1003, 64), (20_005, 1), (20_005, 100)])
def test_the_largest_values_are_those_of_topk(width, count):
    draw = torch.Generator().manual_seed(width)
    for values in (
        torch.randn(40, width, generator=draw),
        torch.randint(0, 9, (40, width), generator=draw).float(),  # many equal ones
        torch.full((2, width), -torch.inf).index_fill(1, torch.tensor([width - 1]), 0.0),
        -torch.arange(2.0 * width).reshape(2, width),
        torch.arange(2.0 * width).reshape(2, width),
    ):
        found, places = largest(values, count)
        assert torch.equal(found.sort(dim=1).values, values.topk(count).values.sort(dim=1).values)
        assert torch.equal(values.gather(1, places), found)
        assert all(len(set(row)) == count for row in places.tolist())


# keyed by sample


@pytest.mark.parametrize("mode", MODES)
def test_the_same_windows_in_another_order_are_served(place, mode, monkeypatch):
    data = place.data(config := place.mode(mode))
    answers = place.open(config)
    order = np.random.default_rng(0).permutation(len(data.train))
    shuffled = replace(data, train=chosen(data.train, order))
    with without_teacher(monkeypatch):
        again = place.open(config, shuffled)
    assert again.store.path == answers.store.path
    for row in range(0, len(order), 7):
        expected, got = answers.read([int(order[row])]), again.read([row])
        assert all(torch.equal(got[name], values) for name, values in expected.items())


def test_a_batch_is_its_sequences_one_after_the_other(place):
    answers = place.open(place.mode("top_k"))
    got, parts = answers.read([9, 0, 4]), [answers.read([row]) for row in (9, 0, 4)]
    assert all(torch.equal(values, torch.cat([part[name] for part in parts])) for name, values in got.items())


def test_a_subset_of_the_windows_is_served(place, monkeypatch):
    data = place.data(config := place.mode("top_k"))
    path = str(place.open(config).store.path)
    with without_teacher(monkeypatch):
        few = place.open(with_cache(config, file=path), replace(data, train=chosen(data.train, [7, 3])))
    assert len(few.keys) == 2


def test_windows_that_are_not_in_it_are_refused_with_their_number(place, monkeypatch):
    data = place.data(config := place.mode("top_k"))
    config = with_cache(config, file=str(place.open(config).store.path))
    mixed = Windows(
        *(
            np.concatenate([np.asarray(a), np.asarray(b)[:3, : a.shape[1]] if a.ndim == 2 else np.asarray(b)[:3]])
            for a, b in zip(vars(data.train).values(), vars(data.evaluation).values(), strict=True)
        )
    )
    with without_teacher(monkeypatch), refused(f"{len(mixed)} samples", "none of 3"):
        place.open(config, replace(data, train=mixed))


def test_the_same_corpus_under_another_path_is_served(place, tmp_path, monkeypatch):
    """A cache that was built here and is read on Kaggle, or next to a moved corpus."""
    answers = place.open(config := place.mode("top_k"))
    elsewhere = write_corpus(tmp_path / "moved.txt")
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": str(elsewhere)})})
    data = make_data(config, tmp_path)
    with without_teacher(monkeypatch):
        for chosen_file in ("", str(answers.store.path)):
            again = source.open_cache(with_cache(config, file=chosen_file), place.run(), data, CPU)
            assert again.keys == answers.keys


def test_equal_windows_have_equal_names_and_any_other_token_gives_another(place):
    windows = place.data(place.mode("top_k")).train
    keys = window_keys(windows)
    assert window_keys(windows) == keys and len(set(keys)) == len(keys) == len(windows)
    for name in ("student_ids", "teacher_ids", "teacher_positions"):
        changed = {field: np.array(values) for field, values in vars(windows).items()}
        changed[name][3, 1] += 1
        differs = [a != b for a, b in zip(keys, window_keys(Windows(**changed)), strict=True)]
        assert [i for i, differ in enumerate(differs) if differ] == [3], name


def test_padding_does_not_change_the_name_of_a_window(place):
    windows = place.data(place.mode("top_k")).train
    wider = Windows(
        *(
            np.pad(a, ((0, 0), (0, 5)), constant_values=PAD if a.dtype != bool else 0)
            for a in list(vars(windows).values())[:4]
        ),
        windows.num_bytes,
    )
    assert window_keys(wider) == window_keys(windows)


def test_duplicates_are_answered_once_and_served_every_time(place, tmp_path, monkeypatch):
    data = place.data(config := with_cache(place.mode("top_k"), file=str(tmp_path / "a.h5")))
    twice = replace(data, train=chosen(data.train, [0, 1, 1, 2, 0, 1]))
    asked: list[str] = []
    make = AnswerMaker.make
    monkeypatch.setattr(AnswerMaker, "make", lambda self, keys: make(self, asked.append(list(keys)) or asked[-1]))
    answers = place.open(config, twice)
    assert len(answers.keys) == 6 and len(answers.store.keys) == 3
    assert sorted(asked[-1]) == sorted(set(answers.keys))  # the calls before it measured the time
    for a, b in ((0, 4), (1, 2), (1, 5)):
        assert all(
            torch.equal(x, y) for x, y in zip(answers.read([a]).values(), answers.read([b]).values(), strict=True)
        )
    assert not torch.equal(answers.read([0])["kept_logprobs"], answers.read([1])["kept_logprobs"])


def test_the_file_is_named_by_what_its_answers_depend_on(place):
    base = place.config()
    data = place.data(base)

    def name(config: Config, data: PreparedData = data) -> str:
        return source.cache_path(config, place.run(), data, CPU).name

    shuffled = replace(data, train=chosen(data.train, range(len(data.train))[::-1]))
    same = [
        name(base, shuffled),
        name(place.config("jsd")),
        name(place.config(tail="renormalise")),
        name(place.config(samples_per_chunk=3)),
    ]
    other = [
        name(place.config(top_k=9)),
        name(place.config(mode="sampled")),
        name(place.config(mode="sampled", num_samples=9)),
        name(place.config("alm", mode="true_token")),
        name(place.config(temperature=2.0)),
        name(base, replace(data, train=data.evaluation)),
    ]
    assert set(same) == {name(base)}
    assert len({name(base), *other}) == 1 + len(other)


# refused


@pytest.fixture(scope="module")
def made(place) -> Config:
    """A configuration whose file exists, for a pair with two tokenizers."""
    config = place.config("projected_kl", own_tokenizer=True)
    return with_cache(config, file=str(place.open(config).store.path))


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
                function(changed, place.run(), data, CPU)


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
                function(with_cache(made, file=str(path)), place.run(), place.data(made), CPU)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_missing_cache_is_named_when_only_reading_was_asked(place, made, tmp_path):
    with refused("nowhere.h5", "no such file", "build it first"):
        source.open_cache(with_cache(made, file=str(tmp_path / "nowhere.h5")), place.run(), place.data(made), CPU)


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


# training


def test_a_cache_at_another_temperature_is_converted_and_that_is_said(place, capsys):
    made = place.config(top_k=VOCABULARY)
    warm = with_distill(with_cache(made, file=str(place.open(made).store.path)), temperature=2.0)
    capsys.readouterr()
    answers = place.open(warm)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "made at temperature 1, converted to 2" in said
    data = place.data(warm)
    teacher = source.prepare_teacher(warm, place.run(), data, CPU)
    logs = []
    for number, asked in enumerate((answers, teacher)):
        trainer = make_trainer(warm, make_run(place.folder, f"warm{number}"), data, asked, steps=2)
        trainer.train()
        logs.append([line["kd_loss"] for line in trainer.state.log_history if "loss" in line])
    # all tokens are kept, so only their rounding to fp16 is left
    assert logs[0] == pytest.approx(logs[1], rel=2e-3)


def test_nothing_is_said_about_a_cache_at_the_same_temperature(place, capsys):
    place.open(place.mode("top_k"))
    capsys.readouterr()
    place.open(place.mode("top_k"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("mode", MODES)
def test_training_from_a_cache_loads_no_teacher_and_repeats_bit_for_bit(place, tmp_path, monkeypatch, mode):
    data = place.data(config := place.mode(mode))
    place.open(config).store.close()
    files = []
    with without_teacher(monkeypatch):
        for name in ("first", "second"):
            run = make_run(tmp_path, name)
            run = Run(run.path, place.folder / "cache")
            train.distill(config, run, data, source.open_teacher(config, run, data, CPU), CPU)
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
    teacher = source.prepare_teacher(config, place.run(), data, CPU)
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
    make = AnswerMaker.make
    monkeypatch.setattr(AnswerMaker, "make", lambda self, keys: make(self, asked.extend(keys) or keys))
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


# crashes

CRASHES = """
import json, os, random, resource, signal, sys, time
from pathlib import Path

import torch

from kdkit.config.language import load_config
from kdkit.distill import open_teacher as source
from kdkit.errors import UserError
from kdkit.runs.folder import Run
from kdkit.teachers.cache_build import AnswerMaker
from tests.tiny import CPU, make_data

torch.set_num_threads(1)
folder, given = Path(sys.argv[1]), load_config(sys.argv[2])
run = Run(folder / "run", folder / "cache")
data = make_data(given, folder)
teacher = source.prepare_teacher(given, run, data, CPU)
source.prepare_teacher = lambda *_: teacher
make, calls = AnswerMaker.make, []


def slowly(self, keys):
    time.sleep(0.02)
    return make(self, keys)


def until_full(self, keys):
    calls.append(keys)
    if len(calls) == 6:  # two calls measure the time, three make chunks
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    return make(self, keys)


def start(path, limit=None):
    # fork: importing torch anew would take seconds
    if pid := os.fork():
        return pid
    code = 1
    try:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        config = given.model_copy(update={"cache": given.cache.model_copy(update={"file": str(path)})})
        source.build_cache(config, run, data, CPU)
        code = 0
    except UserError as error:
        sys.stderr.write(str(error) + "\\n")
        code = 2
    finally:
        sys.stderr.flush()
        os._exit(code)


def parts(path):
    return sorted(file.name for file in Path(f"{path}.parts").glob("?????.h5"))


def finish(path, limit=None):
    return os.waitstatus_to_exitcode(os.waitpid(start(path, limit), 0)[1])


whole = folder / "whole.h5"
assert finish(whole) == 0
chunks, answer = -(-len(data.train) // given.cache.samples_per_chunk), {"killed": [], "codes": [], "equal": []}
draw = random.Random(0)
for point in [*range(0, chunks, 2), *draw.choices(range(chunks), k=10)][:10]:
    path = folder / f"killed{len(answer['killed'])}" / "a.h5"
    AnswerMaker.make = slowly  # so that the kill comes in the middle
    pid = start(path)
    AnswerMaker.make = make
    while len(parts(path)) < point:
        time.sleep(0.001)
    time.sleep(draw.random() * 0.03)
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL and not path.exists()
    answer["killed"].append(len(parts(path)))
    answer["codes"].append(finish(path))
    answer["equal"].append(path.read_bytes() == whole.read_bytes() and os.listdir(path.parent) == ["a.h5"])

path, answer["full"] = folder / "full" / "a.h5", []
for maker, limit in ((until_full, None), (make, whole.stat().st_size - 1), (make, None)):
    AnswerMaker.make = maker
    code = finish(path, limit)
    left = [file.name for file in path.parent.rglob("*") if file.is_file()]
    answer["full"].append([code, len(parts(path)), any("partial" in name for name in left), path.exists()])
answer["full_equal"] = path.read_bytes() == whole.read_bytes()
print("ANSWER" + json.dumps(answer))
"""


@pytest.fixture(scope="module")
def crashes(tmp_path_factory):
    """What was left by builds in other processes that were killed, or ran out of disk, and by builds after them."""
    place = Place(tmp_path_factory.mktemp("crashes"))
    (place.folder / "config.yaml").write_text(dump_config(place.config(samples_per_chunk=5, top_k=32)))
    (place.folder / "crash.py").write_text(CRASHES)
    root = Path(__file__).parents[2]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, place.folder / "crash.py", place.folder, place.folder / "config.yaml"]
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = next(line for line in done.stdout.splitlines() if line.startswith("ANSWER"))
    return json.loads(answer.removeprefix("ANSWER")) | {"errors": done.stderr}


def test_a_build_killed_at_ten_points_is_finished_to_the_same_bytes(crashes):
    assert len(crashes["killed"]) == 10 and max(crashes["killed"]) >= 6 and min(crashes["killed"]) <= 1
    assert crashes["codes"] == [0] * 10
    assert crashes["equal"] == [True] * 10


def test_a_full_disk_leaves_finished_parts_and_a_later_build_finishes(crashes):
    (code, first, *rest), (code_again, second, *rest_again), last = crashes["full"]
    assert (code, code_again) == (2, 2)
    assert first in (2, 3) and second == 9  # the third chunk may still have been on its way
    assert rest == rest_again == [False, False]  # nothing half-written, and no file
    assert last == [0, 0, False, True]
    assert crashes["full_equal"]
    errors = [line for line in crashes["errors"].splitlines() if "File too large" in line]
    assert len(errors) == 2
    assert all("expected room to write" in line and "finished chunks stay valid" in line for line in errors)


def test_a_build_stopped_in_one_place_does_not_go_on_with_other_settings(place, tmp_path, monkeypatch):
    config = with_cache(place.mode("top_k"), file=str(tmp_path / "a.h5"))
    data, make, calls = place.data(config), AnswerMaker.make, []

    def stop(self, keys):
        calls.append(keys)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return make(self, keys)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AnswerMaker, "make", stop)
        place.open(config, data)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5.parts"]
    with refused("a.h5.parts", "top_k: got 8, expected 9"):
        place.open(with_cache(config, top_k=9), data)
    assert len(place.open(config, data).keys) == len(data.train)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
