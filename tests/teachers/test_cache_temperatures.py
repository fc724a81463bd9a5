"""One cache for several temperatures: what it says at each of them, which runs it serves, and what is converted."""

import pytest
import torch

from kdkit.distill import open_teacher as source
from kdkit.distill import train
from kdkit.losses.sparse import at_temperature
from kdkit.runs.costs import read_cost
from kdkit.runs.store import Shard
from kdkit.teachers.cache import CachedSignals
from tests.caches import VOCABULARY, Place, without_teacher
from tests.tiny import make_config, make_plan, make_run, make_session, make_trainer

ROWS = [0, 3, 7]
OWN = {"own_tokenizer": True}


@pytest.mark.parametrize(
    ("loss", "pair"),
    [("forward_kl", {}), ("projected_kl", OWN | {"vocab_size": 290}), ("projected_kl", OWN | {"vocab_size": 500})],
)
def test_answers_at_every_temperature_are_those_of_a_cache_of_its_own(place, loss, pair):
    together = place.open(place.config(loss, **pair, temperature=2.0, temperatures=[4.0, 0.5, 2.0]))
    assert together.temperatures == [0.5, 2.0, 4.0] and together.temperature == 2.0
    for temperature in together.temperatures:
        alone = place.open(place.config(loss, **pair, temperature=temperature, file=str(place.folder / "alone.h5")))
        got, expected = together.at(temperature).read(ROWS), alone.read(ROWS)
        alone.store.close()
        (place.folder / "alone.h5").unlink()
        assert torch.equal(got["kept_ids"], expected["kept_ids"])
        assert torch.equal(got["kept_rest"], expected["kept_rest"])
        # kept as finely or finer: 1/32 nat there, 1/32 of a nat of the coolest here, both scaled to their exact sum
        clipped = expected["kept_logprobs"] < -255 / 16 + 1
        apart = (got["kept_logprobs"] - expected["kept_logprobs"]).abs()
        assert apart[~clipped].max() <= (0.0 if temperature == 0.5 else 1 / 8)


def test_the_rest_at_another_temperature_does_not_follow_from_what_is_kept(place):
    """Without its own number the rest is taken to be spread evenly, which it is not."""
    alone = place.open(place.config(temperature=1.0, file=str(place.folder / "one.h5")))
    together = place.open(place.config(temperature=1.0, temperatures=[4.0]))
    known = alone.read(ROWS)
    _, converted = at_temperature(known["kept_logprobs"], known["kept_rest"], 0.25, VOCABULARY)
    exact = together.at(4.0).read(ROWS)["kept_rest"]
    assert (converted.exp() - exact.exp()).abs().max() > 1e-3


def test_what_is_next_to_nothing_when_cool_is_right_when_warm(place, exact):
    config = place.config(temperature=0.02, top_k=VOCABULARY, temperatures=[1.0])
    data, signals = place.data(config), place.open(config)
    got = signals.at(1.0).read([2])
    assert signals.store.read(signals.keys[2])["levels"].max() > 255
    expected = torch.log_softmax(exact(data, 2)[:-1], dim=-1).gather(1, got["kept_ids"].long())
    assert torch.allclose(got["kept_logprobs"].double(), expected, atol=1e-3)


@pytest.mark.parametrize("loss", ["forward_kl", "jsd"])
def test_training_at_each_temperature_is_training_with_the_teacher(place, tmp_path, loss):
    losses = {}
    for temperature in (1.0, 4.0):
        config = place.config(loss, temperature=temperature, top_k=VOCABULARY, temperatures=[1.0, 4.0])
        data, signals = place.data(config), place.open(config)
        teacher = source.prepare_teacher(make_session(config, place.run()), data)
        for number, asked in enumerate((signals, teacher)):
            trainer = make_trainer(config, make_run(tmp_path, f"{temperature}-{number}"), data, asked, steps=2)
            trainer.train()
            lines = [line for line in trainer.state.log_history if "loss" in line]
            losses[temperature, number] = [line[name] for line in lines for name in ("loss", "kd_loss", "grad_norm")]
        assert losses[temperature, 0] == pytest.approx(losses[temperature, 1], rel=3e-3)
    assert losses[1.0, 0] != pytest.approx(losses[4.0, 0], rel=1e-2)


def test_a_run_of_one_temperature_reads_the_file_that_serves_more(tmp_path, monkeypatch):
    place = Place(tmp_path)
    together = place.open(place.config(temperature=2.0, temperatures=[1.0, 3.0]))
    with without_teacher(monkeypatch):
        for temperature, further in ((3.0, []), (1.0, [2.0])):
            signals = place.open(place.config(temperature=temperature, temperatures=further))
            assert signals.store.path == together.store.path and signals.temperature == temperature
    other = place.open(place.config(temperature=1.5, temperatures=[3.0]))
    assert other.store.path != together.store.path and other.temperatures == [1.5, 3.0]


def test_a_shard_or_a_damaged_file_serves_no_run(tmp_path):
    place = Place(tmp_path)
    config = place.config(temperature=2.0, temperatures=[1.0])
    plan = make_plan(config, place.run(), place.data(config))
    part = source.build_cache(plan, Shard(1, 2))
    (part.parent / f"{part.name.partition('-')[0]}-0.h5").write_bytes(b"nothing")
    alone = place.config(temperature=1.0)
    assert not source.cache_path(make_plan(alone, place.run(), place.data(alone))).is_file()


def test_a_named_file_without_the_temperature_is_converted_from_the_nearest_and_says_so(place, tmp_path, capsys):
    made = place.config(temperature=1.5, temperatures=[2.0], file=str(tmp_path / "a.h5"))
    place.open(made)
    capsys.readouterr()
    for wanted, nearest in ((3.0, 2.0), (1.0, 1.5)):
        signals = place.open(place.config(temperature=wanted, file=made.cache.file))
        said = capsys.readouterr().out
        assert said.count("\n") == 1 and f"made at temperature 1.5, 2, converted to {wanted:g}; " in said
        assert signals.at(wanted).temperature == nearest
    place.open(place.config(temperature=2.0, file=made.cache.file))
    assert capsys.readouterr().out == ""


def test_stages_of_two_temperatures_have_one_cache_that_is_exact_at_both(place, tmp_path, capsys):
    stages = [{"name": "warm", "max_steps": 1, "temperature": 4.0}, {"name": "cool", "max_steps": 1}]
    base = place.config(temperature=2.0)
    config = make_config(
        place.folder,
        **{part: getattr(base, part).model_dump() for part in ("teacher", "student", "distill", "cache")},
        train={"stages": stages},
    )
    plan = make_plan(config, make_run(tmp_path), place.data(config))
    signals = source.open_teacher(plan)
    assert signals.temperatures == [2.0, 4.0] and "converted" not in capsys.readouterr().out
    reads: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        read = CachedSignals.read
        patch.setattr(CachedSignals, "read", lambda self, rows: reads.append(self.temperature) or read(self, rows))
        train.distill(plan, signals)
    assert reads == sorted(reads, reverse=True) and set(reads) == {4.0, 2.0}


def test_drawn_answers_and_those_of_the_text_take_no_further_temperatures(place):
    for mode, loss in (("sampled", "forward_kl"), ("true_token", "alm")):
        config, plain = (place.config(loss, mode=mode, temperatures=further) for further in ([2.0], []))
        paths = {source.cache_path(make_plan(each, place.run(), place.data(each))) for each in (config, plain)}
        assert len(paths) == 1


def test_three_temperatures_more_cost_no_pass_of_the_teacher_and_few_bytes(place):
    costs, sizes = [], []
    for further in ([], [2.0, 3.0, 4.0]):
        config = place.config(top_k=64, temperatures=further, file=str(place.folder / f"{len(further)}.h5"))
        path = place.open(config).store.path
        costs.append(read_cost(path)["tokens"])
        sizes.append(path.stat().st_size)
    assert costs[0] == costs[1]
    assert sizes[1] < 1.2 * sizes[0]
