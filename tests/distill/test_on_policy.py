"""The on-policy stage: the student writes, the teacher's term alone judges it, and a seed decides every text."""

import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM

from kdkit.alignment.tokenizers import end_token_id, start_token_id, token_bytes
from kdkit.config.language import Config
from kdkit.config.training import StageSettings
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import PAD
from kdkit.distill import train
from kdkit.distill.on_policy import OnPolicyTrainer
from kdkit.distill.stages import plan_stages
from kdkit.distill.student import make_student
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.runs.folder import Run
from kdkit.teachers.prepare import Teacher
from kdkit.training.progress import Progress
from kdkit.training.trainer import LanguageModelTrainer
from tests.tiny import make_config, make_data, make_run, make_session, make_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT, NEW = 6, 9
SECTIONS = {"build": {"vocab_size": 290, "hidden_size": 16, "num_layers": 1, "intermediate_size": 32}}
Pair = tuple[Config, PreparedData, Teacher]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, one_thread) -> dict[str, Pair]:
    """Configuration, data and teacher for one tokenizer and for two."""
    made = {}
    for name, tokenizer in (("same", "teacher"), ("two", "own")):
        folder = tmp_path_factory.mktemp(name)
        config = make_config(folder, student={"build": SECTIONS["build"] | {"tokenizer": tokenizer}})
        data = make_data(config, folder)
        made[name] = (config, data, make_teacher(data))
    assert made["same"][1].same_tokenizer and not made["two"][1].same_tokenizer
    return made


def on_policy(config: Config, **changes: object) -> Config:
    """Return a configuration with a single stage, in which the student writes."""
    settings = {"prompt_length": PROMPT, "max_new_tokens": NEW}
    settings |= {name: changes.pop(name) for name in ("share", "generation_temperature") if name in changes}
    seed = changes.pop("seed", config.seed)
    stage = StageSettings.model_validate({"name": "own", "max_steps": 4, "on_policy": settings} | changes)
    return config.model_copy(update={"seed": seed, "train": config.train.model_copy(update={"stages": [stage]})})


@pytest.fixture
def trainer_of(pairs, tmp_path):
    """Return a function that makes the trainer of an on-policy stage."""
    numbers = itertools.count()

    def make(name: str, student: torch.nn.Module | None = None, **changes: object) -> OnPolicyTrainer:
        config, data, teacher = pairs[name]
        config = on_policy(config, **changes)
        (stage,) = plan_stages(config, data)
        run = make_run(tmp_path, str(next(numbers)))
        student = student or make_student(config, data)
        trainer = train.make_trainer(make_session(config, run), data, student, teacher, "student", stage)
        assert isinstance(trainer, OnPolicyTrainer)
        return trainer

    return make


def batches_of(trainer: OnPolicyTrainer, count: int = 2, step: int = 0) -> tuple[list[dict], torch.Tensor, list[dict]]:
    """Return what the trainer makes of the next micro-batches, the number of items, and the batches of the data."""
    trainer.state.global_step = step
    given = list(itertools.islice(iter(trainer.get_train_dataloader()), count))
    batches, num_items = trainer.get_batch_samples(iter(given), count, torch.device("cpu"))
    return batches, num_items, given


def writes(monkeypatch, trainer: OnPolicyTrainer, *texts: list[int]) -> list[dict]:
    """Let the student write these tokens, row by row, padded with ends; return the arguments of the calls."""
    calls: list[dict] = []
    end = end_token_id(trainer.data.student_tokenizer)

    def generate(prompts, **options):
        calls.append(options | {"prompts": prompts})
        rows = [texts[i % len(texts)] for i in range(len(prompts))]
        longest = max(map(len, rows))
        new = torch.tensor([row + [end] * (longest - len(row)) for row in rows], dtype=torch.long)
        return torch.cat([prompts, new.reshape(len(prompts), longest)], dim=1)

    monkeypatch.setattr(trainer.model, "generate", generate)
    return calls


def long_rows(batch: dict) -> torch.Tensor:
    """Return the rows of a batch of the data that have a whole prompt."""
    return batch["input_ids"][(batch["labels"][:, PROMPT] != IGNORE_INDEX)]


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and torch.equal(first["input_ids"], second["input_ids"])


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
        assert (call["temperature"], call["max_new_tokens"], call["do_sample"]) == (0.7, NEW, True)
        assert (call["top_k"], call["top_p"]) == (0, 1.0)  # the whole distribution
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


# what is in the loss


@pytest.mark.parametrize("name", ["same", "two"])
def test_only_the_students_own_tokens_are_in_the_loss(trainer_of, name):
    trainer = trainer_of(name)
    batches, num_items, _ = batches_of(trainer)
    for batch in batches:
        assert (batch["labels"][:, : 1 + PROMPT] == IGNORE_INDEX).all()
        own = batch["labels"][:, 1 + PROMPT :]
        assert (own != IGNORE_INDEX).any()
        assert torch.equal(own[own != IGNORE_INDEX], batch["input_ids"][:, 1 + PROMPT :][own != IGNORE_INDEX])
    assert num_items == sum((batch["labels"] != IGNORE_INDEX).sum() for batch in batches)


def test_the_number_of_items_is_counted_after_writing(trainer_of, monkeypatch):
    trainer = trainer_of("same")
    word = trainer.data.student_tokenizer(" fox").input_ids
    writes(monkeypatch, trainer, word * 3)
    _, num_items, given = batches_of(trainer)
    assert num_items == sum(len(long_rows(batch)) for batch in given) * 3 * len(word)
    assert num_items != sum((batch["labels"] != IGNORE_INDEX).sum() for batch in given)


@pytest.mark.parametrize("loss", ["forward_kl", "reverse_kl"])
def test_the_loss_on_own_text_is_the_divergence_at_its_tokens_alone(trainer_of, pairs, loss):
    trainer, teacher = trainer_of("same", loss=loss, kd_ratio=0.2), pairs["same"][2]
    (batch, *_), _, _ = batches_of(trainer, 1)
    got, terms = trainer.compute_step(trainer.model, batch, 37)
    student_logits = trainer.model(input_ids=batch["input_ids"]).logits.double()
    p = torch.log_softmax(teacher.model(input_ids=batch["input_ids"]).logits.double(), dim=-1)
    q = torch.log_softmax(student_logits, dim=-1)
    first, second = (p, q) if loss == "forward_kl" else (q, p)
    values = (first.exp() * (first - second)).sum(dim=-1)
    counted = batch["labels"][:, 1:] != IGNORE_INDEX
    expected = values[:, :-1][counted].sum() / 37
    # kd_ratio weighs the teacher's term against cross-entropy, of which there is none here
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms["kd_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    got.backward()
    (expected_gradient,) = torch.autograd.grad(expected, trainer.model.lm_head.weight)
    assert torch.allclose(trainer.model.lm_head.weight.grad, expected_gradient.float(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "loss"), [("two", "overlap_kl"), ("two", "projected_kl"), ("two", "alm"), ("two", "uld"), ("same", "jsd")]
)
def test_there_is_no_cross_entropy_on_own_text(trainer_of, name, loss):
    trainer = trainer_of(name, loss=loss, kd_ratio=0.2)
    (batch, *_), num_items, _ = batches_of(trainer, 1)
    got, terms = trainer.compute_step(trainer.model, batch, num_items)
    assert got.item() == pytest.approx(terms["kd_loss"].item(), rel=1e-6) and got.item() > 0
    assert terms["ce_loss"].item() > 0  # logged, and not in the loss


def test_where_the_teacher_is_not_asked_the_own_text_teaches_nothing(trainer_of, monkeypatch):
    """Rows without a partner keep their cross-entropy on text of the data, and have no gradient on own text."""
    trainer = trainer_of("two", loss="overlap_kl")
    writes(monkeypatch, trainer, trainer.data.student_tokenizer(" lazy wizards jump over trees").input_ids)
    (batch, *_), num_items, _ = batches_of(trainer, 1)
    trainer.compute_step(trainer.model, batch, num_items)[0].backward()
    spans = batch["spans"]
    asked = spans.student_rows[spans.student_starts[:-1][spans.same_token]]
    labels = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE_INDEX).flatten()
    asked = asked[labels[asked] != IGNORE_INDEX]
    counted = (labels != IGNORE_INDEX).sum()
    assert 0 < len(asked) < counted
    student = trainer.model(input_ids=batch["input_ids"]).logits.flatten(0, 1)
    student.retain_grad()
    # a reference with the gradient of each row apart
    overlap = trainer.data.overlap
    chosen = student[asked][:, torch.from_numpy(overlap.student_ids)].log_softmax(dim=-1)
    teacher_rows = spans.teacher_rows[spans.teacher_starts[:-1][spans.same_token]]
    kept = torch.isin(spans.student_rows[spans.student_starts[:-1][spans.same_token]], asked)
    teacher = trainer.teacher.model(input_ids=batch["teacher_input_ids"]).logits.flatten(0, 1)[teacher_rows[kept]]
    p = teacher[:, torch.from_numpy(overlap.teacher_ids)].log_softmax(dim=-1)
    expected = (p.exp() * (p - chosen)).sum() / num_items
    gradient = trainer.model.lm_head.weight.grad.clone()
    trainer.model.zero_grad()
    expected.backward()
    assert torch.allclose(gradient, trainer.model.lm_head.weight.grad, atol=1e-6)


def test_text_of_the_data_keeps_the_blend_of_the_stage(trainer_of):
    trainer = trainer_of("same", kd_ratio=0.2)
    own, num_items, given = batches_of(trainer, 1)
    trainer.compute_step(trainer.model, own[0], num_items)
    got, terms = trainer.compute_step(trainer.model, given[0], 50)
    assert got.item() == pytest.approx(0.8 * terms["ce_loss"].item() + 0.2 * terms["kd_loss"].item(), rel=1e-5)


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


def test_another_seed_writes_another_text(trainer_of, pairs):
    student = make_student(*pairs["same"][:2])
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
    monkeypatch.setattr("kdkit.distill.on_policy.windows_of_ids", lambda *_: trainer.data.train.first(0))
    batches, num_items, given = batches_of(trainer)
    assert all(equal(a, b) for a, b in zip(batches, given, strict=True))
    assert num_items == sum((batch["labels"] != IGNORE_INDEX).sum() for batch in given)


@pytest.mark.parametrize("name", ["same", "two"])
def test_a_padded_head_writes_no_token_that_the_tokenizer_lacks(trainer_of, pairs, name):
    config, data, _ = pairs[name]
    student, size = make_student(config, data), len(data.student_tokenizer)
    student.resize_token_embeddings(size + 9)
    with torch.no_grad():
        student.get_output_embeddings().weight[size:] = student.get_output_embeddings().weight[:9] * 40
    trainer = trainer_of(name, student=student)
    batches, _, _ = batches_of(trainer)
    assert all(batch["input_ids"].max() < size for batch in batches)
    trainer.train()
    assert all(line["loss"] > 0 for line in trainer.state.log_history if "loss" in line)


# whole trainings


def read(run: Run) -> tuple[list, dict[str, torch.Tensor]]:
    names = ("step", "loss", "ce_loss", "kd_loss", "grad_norm")
    lines = [[line[name] for name in names] for line in run.read_metrics() if "loss" in line]
    return lines, AutoModelForCausalLM.from_pretrained(run.path / "student").state_dict()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("same", {"loss": "reverse_kl"}),
        ("two", {}),
        ("two", {"loss": {"name": "overlap_kl", "divergence": "jsd"}, "share": 0.5}),
    ],
)
def test_a_resumed_training_writes_what_an_uninterrupted_one_would(pairs, tmp_path, monkeypatch, name, changes):
    config, data, teacher = pairs[name]
    config = on_policy(config, **changes)
    config = config.model_copy(update={"train": config.train.model_copy(update={"save_every": 2})})
    whole, broken = make_run(tmp_path, "whole"), make_run(tmp_path, "broken")
    train.distill(make_session(config, whole), data, teacher)
    on_step_end = Progress.on_step_end

    def stop(self, args, state, control, **rest):
        on_step_end(self, args, state, control, **rest)
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "on_step_end", stop)
        train.distill(make_session(config, broken), data, teacher)
    train.distill(make_session(config, broken), data, teacher, resume=True)
    (expected, expected_weights), (got, got_weights) = read(whole), read(broken)
    assert got == expected and len(got) == 4
    assert all(torch.equal(value, expected_weights[key]) for key, value in got_weights.items())
    if changes.get("share", 1.0) == 1.0:
        assert all(line[1] == pytest.approx(line[3], rel=1e-5) for line in got)


def test_the_student_comes_nearer_to_the_teacher_on_its_own_text(pairs, tmp_path):
    config, data, teacher = pairs["same"]
    config = on_policy(config, loss="reverse_kl", max_steps=20, learning_rate=0.03)
    train.distill(make_session(config, run := make_run(tmp_path)), data, teacher)
    losses = [line[3] for line in read(run)[0]]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_baseline_of_an_on_policy_stage_reads_the_data(pairs, tmp_path):
    config, data, _ = pairs["two"]
    config = on_policy(config)
    (stage,) = plan_stages(config, data)
    student = make_student(config, data)
    trainer = train.make_trainer(make_session(config, make_run(tmp_path)), data, student, None, "baseline", stage)
    assert type(trainer) is LanguageModelTrainer
