"""The text of an on-policy stage: the student writes it, a seed decides it, and bad text does no harm."""

import pytest
import torch

from kdkit.alignment.tokenizers import end_token_id, start_token_id, token_bytes
from kdkit.data.windows import PAD
from kdkit.distill.student import make_student
from kdkit.losses.cross_entropy import IGNORE_INDEX
from tests.distill.own_text import NEW, PROMPT, batches_of, equal, long_rows, writes

pytestmark = pytest.mark.usefixtures("one_thread")

# what is read


@pytest.mark.parametrize("name", ["same", "two"])
def test_the_text_after_the_prompt_is_the_students_own(trainer_of, monkeypatch, name):
    trainer = trainer_of(name)
    text = trainer.data.student_tokenizer(" lazy wizards jump").input_ids
    assert len(text) >= 3
    writes(monkeypatch, trainer, text)
    batches, _, given = batches_of(trainer)
    for batch, data_batch in zip(batches, given, strict=True):
        prompts = long_rows(data_batch)[:, : 1 + PROMPT]
        end = end_token_id(trainer.data.student_tokenizer)
        assert len(prompts) >= 1
        assert torch.equal(batch["input_ids"][:, : 1 + PROMPT], prompts)
        assert batch["input_ids"][:, 1 + PROMPT :].tolist() == [text] * len(prompts), end
        assert batch["is_own_text"] is True


@pytest.mark.parametrize("name", ["same", "two"])
def test_the_teacher_reads_the_same_text_in_its_own_tokens(trainer_of, name):
    trainer = trainer_of(name)
    (batch, *_), _, _ = batches_of(trainer)
    data = trainer.data
    tables = [token_bytes(tokenizer) for tokenizer in (data.student_tokenizer, data.teacher_tokenizer)]
    starts = [start_token_id(tokenizer) for tokenizer in (data.student_tokenizer, data.teacher_tokenizer)]
    spans = batch["spans"]
    for row in range(len(batch["input_ids"])):
        of_row = slice(*spans.student_starts[spans.sequence_starts[row : row + 2]].tolist())
        length = of_row.stop - of_row.start
        student_ids = batch["input_ids"][row, : length + 1].tolist()
        of_row = slice(*spans.teacher_starts[spans.sequence_starts[row : row + 2]].tolist())
        teacher_ids = batch["teacher_input_ids"][row, : of_row.stop - of_row.start + 1].tolist()
        assert [student_ids[0], teacher_ids[0]] == starts
        spelled = [
            b"".join(table[i] if table[i] is not None else b"|" for i in ids[1:])
            for ids, table in zip((student_ids, teacher_ids), tables, strict=True)
        ]
        assert spelled[0] == spelled[1] and len(spelled[0]) > PROMPT
    if name == "same":
        assert torch.equal(batch["input_ids"], batch["teacher_input_ids"])


def test_the_student_writes_as_the_settings_say(trainer_of, monkeypatch):
    trainer = trainer_of("two", generation_temperature=0.7)
    calls = writes(monkeypatch, trainer, [300 - 20, 5])
    _, _, given = batches_of(trainer)
    assert len(calls) == 2
    for call, batch in zip(calls, given, strict=True):
        assert torch.equal(call["prompts"], long_rows(batch)[:, : 1 + PROMPT])
        (draw,) = call["logits_processor"]  # what it does with the settings is tested in test_generation.py
        stated = draw.sampling
        assert (stated.temperature, stated.max_new_tokens) == (0.7, NEW)
        assert (stated.top_k, stated.top_p, stated.min_p, stated.repetition_penalty) == (0, 1.0, 0.0, 1.0)
        assert call["generation_config"].max_new_tokens == NEW
        assert call["attention_mask"].eq(1).all()


def test_a_text_ends_where_the_student_ends_it(trainer_of, monkeypatch):
    trainer = trainer_of("same")
    end, word = end_token_id(trainer.data.student_tokenizer), trainer.data.student_tokenizer(" fox").input_ids
    writes(monkeypatch, trainer, [*word, end, *word, *word], [*word, *word, *word, *word])
    (batch, *_), num_items, _ = batches_of(trainer, 1)
    rows = [row[PROMPT:][row[PROMPT:] >= 0].tolist() for row in batch["labels"][:, 1:]]
    assert rows[0] == [*word, end] and rows[1] == word * 4
    assert num_items == sum(map(len, rows))


def test_an_end_inside_the_prompt_does_not_end_the_text(trainer_of, monkeypatch):
    trainer = trainer_of("two")
    end, word = end_token_id(trainer.data.student_tokenizer), trainer.data.student_tokenizer(" fox").input_ids
    writes(monkeypatch, trainer, word)
    batches, _, _ = batches_of(trainer, 8)
    with_end = [row for batch in batches for row in batch["input_ids"] if end in row[1 : 1 + PROMPT].tolist()]
    assert with_end
    assert all(row[1 + PROMPT :].tolist()[: len(word)] == word for row in with_end)


def test_a_sequence_shorter_than_a_prompt_is_left_out(trainer_of, monkeypatch):
    """Its padding would be read as text."""
    trainer = trainer_of("same")
    calls = writes(monkeypatch, trainer, trainer.data.student_tokenizer(" fox").input_ids)
    windows = trainer.data.train
    lengths = (windows.student_ids != PAD).sum(axis=1)
    short, long = int(lengths.argmin()), int(lengths.argmax())
    settings = trainer.settings.model_copy(update={"prompt_length": int(lengths[short])})
    trainer.settings = settings
    batch = trainer.data_collator([short, long, short])
    (written,), _ = trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    assert torch.equal(calls[0]["prompts"], batch["input_ids"][1:2, : 1 + settings.prompt_length])
    assert len(written["input_ids"]) == 1 and written["is_own_text"]


def test_a_batch_of_short_sequences_goes_on_from_what_it_has(trainer_of, monkeypatch):
    trainer = trainer_of("same")
    calls = writes(monkeypatch, trainer, trainer.data.student_tokenizer(" fox").input_ids)
    trainer.settings = trainer.settings.model_copy(update={"prompt_length": 1000})
    batch = trainer.data_collator([0, 1])
    (written,), num_items = trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    assert calls[0]["prompts"].shape[1] == batch["input_ids"].shape[1]
    assert num_items == (written["labels"] != IGNORE_INDEX).sum() > 0


# which text


def test_a_share_of_the_micro_batches_is_written_by_the_student(trainer_of, monkeypatch):
    counts = {}
    for share in (1.0, 0.5, 0.25):
        trainer = trainer_of("same", share=share)
        writes(monkeypatch, trainer, trainer.data.student_tokenizer(" fox").input_ids)
        kinds = []
        for step in range(100):
            trainer.state.global_step = step
            batches, num_items = trainer.get_batch_samples(
                iter([trainer.data_collator([0]), trainer.data_collator([1])]), 2, torch.device("cpu")
            )
            kinds += ["is_own_text" in batch for batch in batches]
            assert num_items == sum((batch["labels"] != IGNORE_INDEX).sum() for batch in batches)
        counts[share] = sum(kinds)
        again = trainer_of("same", share=share)
        writes(monkeypatch, again, trainer.data.student_tokenizer(" fox").input_ids)
        (first, second), _, _ = batches_of(again)
        assert ["is_own_text" in batch for batch in (first, second)] == kinds[:2]
    assert counts[1.0] == 200
    assert counts[0.5] == pytest.approx(100, abs=25) and counts[0.25] == pytest.approx(50, abs=22)


@pytest.mark.parametrize("name", ["same", "two"])
def test_the_same_seed_and_step_write_the_same_text(trainer_of, name):
    first, second = (batches_of(trainer_of(name))[0] for _ in range(2))
    assert all(equal(a, b) for a, b in zip(first, second, strict=True))


def test_another_step_writes_another_text_to_the_same_prompts(trainer_of):
    trainer = trainer_of("same")
    batch = trainer.data_collator([0, 1, 2])
    texts = []
    for step in range(3):
        trainer.state.global_step = step
        (written,), _ = trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
        texts.append(written["input_ids"][:, 1 + PROMPT :].tolist())
    assert texts[0] != texts[1] and texts[1] != texts[2] and texts[0] != texts[2]


def test_the_micro_batches_of_a_step_are_written_independently(trainer_of):
    trainer = trainer_of("same")
    batch = trainer.data_collator([0, 1, 2])
    (first, second), _ = trainer.get_batch_samples(iter([batch, batch]), 2, torch.device("cpu"))
    assert first["input_ids"].tolist() != second["input_ids"].tolist()


def test_another_seed_writes_another_text(trainer_of, parts_of):
    student = make_student(*parts_of["same"][:2])
    texts = []
    for seed in (0, 1):
        trainer = trainer_of("same", student=student, seed=seed)
        (written,), _ = trainer.get_batch_samples(iter([trainer.data_collator([0, 1])]), 1, torch.device("cpu"))
        texts.append(written["input_ids"].tolist())
    assert texts[0] != texts[1]


def test_writing_leaves_the_random_numbers_and_the_mode_of_the_model_as_they_were(trainer_of):
    trainer = trainer_of("two")
    trainer.model.train()
    given = [trainer.data_collator([0, 1, 2])]
    before = torch.get_rng_state()
    trainer.get_batch_samples(iter(given), 1, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    assert trainer.model.training
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


# students that write badly


def test_half_characters_are_not_read(trainer_of, monkeypatch):
    trainer = trainer_of("two")
    table = token_bytes(trainer.data.student_tokenizer)
    half = table.index(b"\xe4")
    end, word = end_token_id(trainer.data.student_tokenizer), trainer.data.student_tokenizer(" fox").input_ids
    writes(monkeypatch, trainer, [*word, half, *word], [half, *word], word * 2)
    (batch, *_), num_items, given = batches_of(trainer, 1)
    assert len(long_rows(given[0])) == 4
    own = [row[row >= 0].tolist() for row in batch["labels"]]
    assert own == [word, [], [*word, *word, end], word]
    assert num_items == 4 * len(word) + 1
    loss, _ = trainer.compute_step(trainer.model, batch, num_items)
    assert torch.isfinite(loss) and loss > 0


@pytest.mark.parametrize("name", ["same", "two"])
def test_a_student_that_ends_at_once_learns_where_to_end(trainer_of, monkeypatch, name):
    trainer = trainer_of(name)
    end = end_token_id(trainer.data.student_tokenizer)
    writes(monkeypatch, trainer, [end])
    (batch, *_), num_items, _ = batches_of(trainer, 1)
    assert [row[row >= 0].tolist() for row in batch["labels"]] == [[end]] * len(batch["labels"])
    assert num_items == len(batch["labels"])
    loss, _ = trainer.compute_step(trainer.model, batch, num_items)
    assert torch.isfinite(loss) and loss > 0


@pytest.mark.parametrize("written", ["half characters", "nothing"])
def test_a_student_of_whose_text_nothing_can_be_read_is_trained_on(trainer_of, monkeypatch, written):
    trainer = trainer_of("two")
    half = token_bytes(trainer.data.student_tokenizer).index(b"\xe4")
    writes(monkeypatch, trainer, [half] * NEW if written == "half characters" else [])
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses == [0.0] * 4
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


def test_a_batch_of_which_nothing_is_left_is_taken_from_the_data(trainer_of, monkeypatch):
    trainer = trainer_of("two")
    monkeypatch.setattr("kdkit.distill.on_policy.windows_of_ids", lambda *_, **__: trainer.data.train.first(0))
    batches, num_items, given = batches_of(trainer)
    assert all(equal(a, b) for a, b in zip(batches, given, strict=True))
    assert num_items == sum((batch["labels"] != IGNORE_INDEX).sum() for batch in given)


@pytest.mark.parametrize("name", ["same", "two"])
def test_a_padded_head_writes_no_token_that_the_tokenizer_lacks(trainer_of, parts_of, name):
    config, data, _ = parts_of[name]
    student, size = make_student(config, data), len(data.student_tokenizer)
    student.resize_token_embeddings(size + 9)
    with torch.no_grad():
        student.get_output_embeddings().weight[size:] = student.get_output_embeddings().weight[:9] * 40
    trainer = trainer_of(name, student=student)
    batches, _, _ = batches_of(trainer)
    assert all(batch["input_ids"].max() < size for batch in batches)
    trainer.train()
    assert all(line["loss"] > 0 for line in trainer.state.log_history if "loss" in line)
