"""The teacher's answers on disk: what they say, which samples they serve, what is refused, and what a crash leaves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdkit.alignment.prefixes import group_tokens
from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import PAD, Windows
from kdkit.distill import open_teacher as source
from kdkit.distill.choose_loss import student_is_finer
from kdkit.teachers.cache import cache_fields, window_keys
from kdkit.teachers.cache_build import SignalMaker, largest
from tests.caches import MODES, VOCABULARY, chosen, refused, with_cache, without_teacher
from tests.tiny import make_data, make_plan, write_corpus


def event_logprobs(data: PreparedData, loss: str, logits: torch.Tensor, temperature: float) -> np.ndarray:
    """Compute log-probabilities of what a loss compares, in float64: added up at temperature 1, tempered then."""
    p = torch.softmax(logits, dim=-1).numpy()
    if loss == "overlap_kl":
        p = p[:, data.overlap.teacher_ids]
    elif loss == "projected_kl" and student_is_finer(data):  # else the events are the teacher's tokens
        groups, size = group_tokens(data.student_tokenizer, data.teacher_tokenizer), data.overlap.student_size
        q = np.zeros((len(p), size + 1))
        for token, event in enumerate(groups):
            q[:, event] += p[:, token]
        p = q[:, :size]
    p = p ** (1.0 / temperature)
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
        ("overlap_kl", 3.0, 290),
        ("projected_kl", 0.5, 290),
        ("projected_kl", 4.0, 290),
        ("overlap_kl", 1.0, 500),
        ("projected_kl", 1.0, 500),
        ("projected_kl", 4.0, 500),
    ],
)
def test_top_k_holds_the_most_likely_events_as_the_teacher_says_them(place, exact, loss, temperature, vocab_size):
    own_tokenizer = loss != "forward_kl"
    config = place.config(loss, own_tokenizer=own_tokenizer, vocab_size=vocab_size, temperature=temperature)
    data, signals = place.data(config), place.open(config)
    assert data.same_tokenizer or student_is_finer(data) == (vocab_size < VOCABULARY)
    for row in range(0, len(data.train), 4):
        expected = event_logprobs(data, loss, exact(data, row)[asked_rows(data, row)], temperature)
        got = signals.store.read(signals.keys[row])
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
    signals = place.open(config := place.config(top_k=top_k))
    got = signals.read([3, 1])
    num_rows = sum(len(asked_rows(place.data(config), row)) for row in (3, 1))
    assert got["kept_ids"].shape == got["kept_logprobs"].shape == (num_rows, top_k)
    assert got["kept_rest"].shape == (num_rows, 1)
    total = got["kept_logprobs"].double().exp().sum(dim=1) + got["kept_rest"].double().exp()[:, 0]
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)
    ids, stored = (
        np.concatenate(x) for x in zip(*(decode(signals.store.read(signals.keys[r])) for r in (3, 1)), strict=True)
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


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_sampled_ids_follow_the_teachers_tempered_distribution(place, exact, temperature):
    config = place.config(temperature=temperature, **MODES["sampled"])
    data, signals = place.data(config), place.open(config)
    counts, expected, variance = np.zeros(VOCABULARY), np.zeros(VOCABULARY), np.zeros(VOCABULARY)
    score, score_variance = 0.0, 0.0
    for row in range(len(data.train)):
        p = np.exp(event_logprobs(data, "forward_kl", exact(data, row)[:-1], temperature))
        ids, shares = decode(signals.store.read(signals.keys[row]))
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
    signals = place.open(place.mode("sampled"))
    got, stored = signals.read([5]), signals.store.read(signals.keys[5])
    assert torch.allclose(got["kept_logprobs"].exp(), torch.from_numpy(stored["shares"] / np.float32(50)), atol=1e-6)
    assert got["kept_rest"].exp().eq(0).all()


def test_neighbouring_sequences_are_sampled_independently(place):
    """A generator that started anew for every sequence would draw the same places of the distribution."""
    signals = place.open(place.mode("sampled"))
    first, second = (signals.store.read(signals.keys[row])["shares"] for row in (0, 1))
    assert not np.array_equal(first[:10], second[:10])


@pytest.mark.parametrize("own_tokenizer", [False, True])
def test_true_token_holds_log_softmax_at_the_next_token(place, exact, own_tokenizer):
    config = place.config("alm", own_tokenizer=own_tokenizer, mode="true_token")
    data, signals = place.data(config), place.open(config)
    for row in range(0, len(data.train), 5):
        ids = data.train.teacher_ids[row]
        ids = torch.from_numpy(ids[ids != PAD].astype(np.int64))
        expected = torch.log_softmax(exact(data, row)[:-1], dim=-1).gather(1, ids[1:, None])[:, 0]
        got = signals.read([row])["token_logprobs"]
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
    signals = place.open(config)
    order = np.random.default_rng(0).permutation(len(data.train))
    shuffled = replace(data, train=chosen(data.train, order))
    with without_teacher(monkeypatch):
        again = place.open(config, shuffled)
    assert again.store.path == signals.store.path
    for row in range(0, len(order), 7):
        expected, got = signals.read([int(order[row])]), again.read([row])
        assert all(torch.equal(got[name], values) for name, values in expected.items())


def test_a_batch_is_its_sequences_one_after_the_other(place):
    signals = place.open(place.mode("top_k"))
    got, parts = signals.read([9, 0, 4]), [signals.read([row]) for row in (9, 0, 4)]
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
    signals = place.open(config := place.mode("top_k"))
    elsewhere = write_corpus(tmp_path / "moved.txt")
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": str(elsewhere)})})
    data = make_data(config, tmp_path)
    with without_teacher(monkeypatch):
        for chosen_file in ("", str(signals.store.path)):
            again = source.open_cache(make_plan(with_cache(config, file=chosen_file), place.run(), data))
            assert again.keys == signals.keys


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
    make = SignalMaker.make
    monkeypatch.setattr(SignalMaker, "make", lambda self, keys: make(self, asked.append(list(keys)) or asked[-1]))
    signals = place.open(config, twice)
    assert len(signals.keys) == 6 and len(signals.store.keys) == 3
    assert sorted(asked[-1]) == sorted(set(signals.keys))  # the calls before it measured the time
    for a, b in ((0, 4), (1, 2), (1, 5)):
        assert all(
            torch.equal(x, y) for x, y in zip(signals.read([a]).values(), signals.read([b]).values(), strict=True)
        )
    assert not torch.equal(signals.read([0])["kept_logprobs"], signals.read([1])["kept_logprobs"])


def test_another_run_with_the_same_answers_goes_on_with_a_build_that_was_stopped(place, tmp_path, monkeypatch):
    """As the runs of a sweep do that train side by side: their losses differ, and their answers do not."""
    config, make, asked = place.config(file=str(tmp_path / "a.h5")), SignalMaker.make, []

    def make_some(self, keys):
        asked.append(list(keys))
        if len(asked) == 5:  # two of them measure the time
            raise KeyboardInterrupt
        return make(self, asked[-1])

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SignalMaker, "make", make_some)
        place.open(config)
    asked.clear()
    monkeypatch.setattr(SignalMaker, "make", lambda self, keys: make(self, asked.append(list(keys)) or asked[-1]))
    signals = place.open(place.config("jsd", file=config.cache.file))
    assert len(asked) == 2 + 4, "two of the six chunks were there"
    assert signals.store.header["config"]["distill"]["loss"]["name"] == "forward_kl"


def test_the_file_is_named_by_what_its_answers_depend_on(place):
    base = place.config()
    data = place.data(base)

    def name(config: Config, data: PreparedData = data) -> str:
        return source.cache_path(make_plan(config, place.run(), data)).name

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
