"""Memory by item: what changes with a setting, and by how much, is what the setting is for."""

import pytest

from kdkit.config.embeddings import embedding_config_from_values
from kdkit.config.language import config_from_values
from kdkit.planning.cost import crossing_bytes, plan_time
from kdkit.planning.devices import find_device
from kdkit.planning.embedding import plan_embedding_memory
from kdkit.planning.items import Item, Phase, fullest
from kdkit.planning.memory import plan_memory
from kdkit.planning.pair import Pair
from kdkit.planning.shapes import language_shapes

SMALL = {
    "data": {"max_length": 64},
    "teacher": {"max_length": 64, "build": {"vocab_size": 512, "hidden_size": 64, "num_layers": 2}},
    "student": {"build": {"vocab_size": 400, "hidden_size": 32, "num_layers": 2, "intermediate_size": 64}},
}


def phases(device="t4", **sections):
    """Plan a small pair; sections replace those of SMALL."""
    config = config_from_values(SMALL | sections)
    return {phase.name: phase for phase in plan_memory(config, find_device(device, config))}


def student(device="t4", **sections):
    return phases(device, **sections)["the student is trained"]


def item(phase, name):
    """Return the bytes of an item by the start of its name; 0 where there is none."""
    return sum(each.bytes for each in phase.items if each.name.startswith(name))


def test_a_micro_batch_of_tokens_takes_what_as_many_full_sequences_do_and_the_step_reads_the_same():
    shape = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    fixed, small = student(train=shape), student(train={"batch_size": 4, "gradient_accumulation_steps": 4})
    tokens = [student(train=shape | {"micro_batch_tokens": length}) for length in (8 * 64, 4 * 64, 3 * 64 + 1)]
    assert [item(each, "activations: ") for each in tokens] == [
        item(each, "activations: ") for each in (fixed, small, small)
    ]
    assert tokens[0].largest == fixed.largest > tokens[1].largest == small.largest
    whole = student(train={"batch_size": 8, "gradient_accumulation_steps": 1, "micro_batch_tokens": 4 * 64})
    assert whole.largest == small.largest, "of several micro-batches, gradients are there beside activations"
    config = [
        config_from_values(SMALL | {"train": shape | {"max_steps": 9} | more})
        for more in ({}, {"micro_batch_tokens": 64})
    ]
    times = [plan_time(each, find_device("t4", each)) for each in config]
    assert times[0] == times[1]


def test_adapters_take_gradients_and_optimizer_for_themselves_alone():
    whole = student()
    lora = student(student=SMALL["student"] | {"lora": {"rank": 2}})
    numbers = 2 * 2 * (4 * (32 + 32) + 3 * (32 + 64))  # two layers of four square projections and three of 32 x 64
    assert item(lora, "student: AdamW of its adapters") == 8 * numbers
    assert item(lora, "student: gradients") == 4 * numbers < item(whole, "student: gradients")
    assert item(lora, "student: weights") == item(whole, "student: weights") + 4 * numbers


def test_of_groups_that_are_never_there_together_the_largest_counts():
    groups = [[Item("cpu", "a", 3.0)], [Item("cpu", "b", 2.0), Item("cpu", "c", 2.0)]]
    phase = Phase("x", tuple(fullest([Item("cpu", "d", 1.0)], *groups)))
    assert phase.total("cpu") == 5.0
    assert [each.name for each in phase.items if not each.counted] == ["a"]


def test_a_cache_takes_the_teacher_out_of_the_students_training():
    online, cached = student(), student(cache={"enabled": True})
    assert item(online, "teacher: weights") > 0 and item(cached, "teacher") == 0
    assert item(cached, "cached signals") > 0
    assert cached.largest < online.largest
    assert "teacher's answers are kept" in phases(cache={"enabled": True})


def test_a_built_teacher_is_a_phase_of_its_own():
    assert "teacher is trained here" in phases()


@pytest.mark.parametrize("device", ["t4", "cpu"])
def test_twice_the_micro_batch_is_twice_the_activations(device):
    small, large = (student(device, train={"per_device_train_batch_size": size}) for size in (4, 8))
    ratio = item(large, "activations: ") / item(small, "activations: ")
    assert 1.8 < ratio <= 2.001  # on a GPU the 16-bit weights stay
    assert item(small, "student: weights") == item(large, "student: weights")


def test_weights_gradients_and_optimizer_are_fp32_whatever_the_precision():
    half, whole = student("t4"), student("cpu")
    for name in ("student: weights", "student: AdamW", "student: gradients"):
        assert item(half, name) == item(whole, name)
    assert item(half, "teacher: weights") == pytest.approx(item(whole, "teacher: weights"), rel=0.5)


def test_checkpointing_keeps_the_inputs_of_the_layers():
    train = {"per_device_train_batch_size": 32, "gradient_checkpointing": True}
    plain, checkpointed = student(train=train | {"gradient_checkpointing": False}), student(train=train)
    assert item(checkpointed, "activations: inputs of 2 layers") == 2 * 4 * 32 * 64 * 32
    assert checkpointed.largest < plain.largest


def test_with_one_micro_batch_gradients_and_activations_are_not_there_together():
    one, more = (student("cpu", train={"gradient_accumulation_steps": number}) for number in (1, 2))
    assert one.total("cpu") < more.total("cpu")
    counted = {each.name: each.counted for each in one.items}
    assert not counted["student: gradients"]


def test_two_gpus_share_what_one_holds_and_say_what_crosses():
    one, two = student("t4"), student("t4x2")
    assert two.places == ["cuda:0", "cuda:1"]
    assert two.total("cuda:0") < one.total("cuda:0")
    config = config_from_values(SMALL)
    pair, alone = (Pair(config, find_device(name, config), *language_shapes(config)) for name in ("t4x2", "t4"))
    assert crossing_bytes(alone) == 0.0
    assert crossing_bytes(pair) == 4 * 64 * (8 + 64 * 2)  # ids there, last states in 16 bits back


def test_attention_maps_in_the_loss_are_counted_on_both_sides():
    weights = {"logits": 0.5, "attention": 0.5}
    plain, maps = student("t4x2"), student("t4x2", distill={"weights": weights})
    assert item(maps, "teacher: attention maps") == 2 * 4 * 64 * 64 * 4  # two layers, averaged over heads, fp32
    assert item(maps, "student: attention maps") == 2 * 4 * 64 * 64 * 4
    assert item(maps, "activations: ") > item(plain, "activations: ")
    mapped = student("t4x2", distill={"weights": weights, "attention_heads": "mapped"})
    assert item(mapped, "teacher: attention maps") == 2 * 4 * 64 * 64 * 4 * 2  # four heads, 16 bits


def test_muon_has_one_mean_for_a_matrix_and_an_average_is_one_more_copy():
    assert item(student(train={"optimizer": "muon"}), "student: Muon") < item(student(), "student: AdamW")
    averaged = student(train={"average": {"kind": "ema"}})
    assert item(averaged, "average of") == item(averaged, "student: weights")


def embedding(method="cosine", device="t4", **sections):
    config = embedding_config_from_values({"method": method} | sections)
    return plan_embedding_memory(config, find_device(device, config))


def test_an_embedding_run_has_the_teachers_answers_and_a_training_for_each_method():
    found = embedding(compare=["stella"])
    names = [phase.name for phase in found]
    assert names == ["the teacher answers", "the student is trained by cosine", "the student is trained by stella"]


def test_a_method_with_two_views_keeps_twice_as_much():
    plain, views = (embedding({"name": "cosine", "task_weight": weight})[1] for weight in (0.0, 1.0))
    assert 1.8 < item(views, "activations: ") / item(plain, "activations: ") < 3.0  # dropout keeps its masks


def test_frozen_word_vectors_have_no_gradient_and_no_optimizer():
    frozen, trained = (embedding(train={"word_embeddings": how})[1] for how in ("freeze", "train"))
    table = 30522 * 384
    assert item(trained, "student: AdamW") - item(frozen, "student: AdamW") == 8 * table
    assert item(trained, "student: gradients") - item(frozen, "student: gradients") == 4 * table


def test_a_teacher_that_is_asked_in_every_step_stays_in_memory():
    live = embedding(teacher={"cache": False})[1]
    assert item(live, "teacher: weights") > 0 and item(embedding()[1], "teacher: weights") == 0


@pytest.mark.parametrize("method", ["talas", "dskd", "emo"])
def test_every_method_is_planned_by_its_own_needs(method):
    assert embedding(method)[1].largest > 0


def test_a_list_of_documents_is_read_beside_its_sentence():
    rows = {"data": {"positives": "second", "negatives": {"number": 2}}}
    alone, listed = embedding(**rows)[1], embedding("list_kl", **rows)[1]
    assert item(listed, "activations: ") > 3.5 * item(alone, "activations: ")


def test_a_table_of_token_vectors_has_no_layers():
    assert item(embedding(student={"path": "static"})[1], "student: weights") == 4 * 30522 * 256
