"""Self-distillation: a teacher that is asked with the answer, on the data's answers and on the student's own."""

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file

from kdkit.config.language import config_from_values
from kdkit.data.windows import PAD
from kdkit.distill import train
from kdkit.distill.on_policy import OnPolicyTrainer
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.student import make_student
from kdkit.errors import UserError
from kdkit.losses.cross_entropy import IGNORE_INDEX
from tests.teachers.chats import PLAIN
from tests.tiny import make_config, make_data, make_llama, make_plan, make_run

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT = "{prompt} The answer is: {answer} Say it again."
OWN = {"name": "own", "max_steps": 4, "loss": "reverse_kl", "kd_ratio": 1.0, "on_policy": {"max_new_tokens": 7}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a function that makes the configuration of a self-distillation and its data."""
    folder = tmp_path_factory.mktemp("privileged")
    first = make_data(make_config(folder), folder)
    model = folder / "model"
    make_llama(len(first.teacher_tokenizer)).save_pretrained(model)
    first.teacher_tokenizer.chat_template = PLAIN
    first.teacher_tokenizer.save_pretrained(model)
    rows = []
    for i in range(30):
        turns = [("user", f"quick fox {i}?"), ("assistant", f"lazy dog {i}.")]
        turns += [("user", f"and wizards {i}?"), ("assistant", f"seven old trees {i}!")] * (i % 3 == 0)
        rows.append(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}))
    (folder / "chats.jsonl").write_text("\n".join(rows))

    def configure(prompt: str | None = PROMPT, stages: bool = False, **rest):
        side = {"path": str(model)}
        return make_config(
            folder,
            data={"path": str(folder / "chats.jsonl"), "max_length": 128, "near_duplicates": "keep"},
            teacher=side | {"privileged_prompt": prompt} | rest,
            student=side,
            train={"max_steps": 4, "save_every": 2, "stages": [OWN] if stages else []},
        )

    return configure, lambda config: make_data(config, folder)


def tokens(row) -> list[int]:
    return [token for token in row.tolist() if token != PAD]


def test_the_teacher_reads_the_answer_in_its_question_and_the_student_does_not(place):
    configure, prepare = place
    data, plain = prepare(configure()), prepare(configure(None))
    tokenizer = data.student_tokenizer
    for number, conversation in enumerate(data.prompts("train")):
        student, teacher = (
            tokenizer.decode(tokens(ids[number])) for ids in (data.train.student_ids, data.train.teacher_ids)
        )
        *_, question, answer = conversation.messages
        assert PROMPT.format(prompt=question.content, answer=answer.content) in teacher
        assert student.count(answer.content) == 1 and teacher.count(answer.content) == 2
    assert (data.train.student_ids == plain.train.student_ids).all()
    assert (data.evaluation.teacher_ids == plain.evaluation.teacher_ids).all(), "held-out text is asked as it is"


def test_only_the_last_answer_is_in_the_loss_and_its_tokens_are_aligned_one_by_one(place):
    configure, prepare = place
    data = prepare(configure())
    tokenizer, windows = data.student_tokenizer, data.train
    assert max(len(each.messages) for each in data.prompts("train")) == 4
    for number, conversation in enumerate(data.prompts("train")):
        labels, of_teacher = (windows.labels([number], side)[0] for side in (False, True))
        student, teacher = windows.student_ids[number], windows.teacher_ids[number]
        said = tokenizer.decode(student[labels]).strip()
        assert said.startswith(conversation.answer) and "dog" not in said.removeprefix(conversation.answer)
        assert student[labels].tolist() == teacher[of_teacher].tolist()
        for place_of in labels.nonzero()[0]:
            position = windows.teacher_positions[number, place_of - 1]
            assert teacher[position + 1] == student[place_of] and windows.same_token[number, place_of - 1]


@pytest.fixture
def own(place, tmp_path):
    """The trainer of an on-policy stage, its batches and what it was given."""
    configure, prepare = place
    config = configure(stages=True)
    data = prepare(config)
    plan = make_plan(config, make_run(tmp_path), data)
    teacher = open_teacher(plan)
    trainer = train.make_trainer(plan, plan.stages[0], make_student(config, data), teacher)
    assert isinstance(trainer, OnPolicyTrainer)
    trainer.state.global_step = 0
    given = list(itertools.islice(iter(trainer.get_train_dataloader()), 2))
    return trainer, data, teacher, given, *trainer.get_batch_samples(iter(given), 2, torch.device("cpu"))


def test_the_student_answers_its_own_question_and_the_teacher_reads_it_behind_the_other_one(own):
    _, data, _, given, batches, num_items = own
    tokenizer = data.student_tokenizer
    assert num_items == sum((batch["labels"] != IGNORE_INDEX).sum() for batch in batches) > 0
    for batch, before in zip(batches, given, strict=True):
        questions = [data.prompts("train")[row] for row in before["windows"]]
        assert len(batch["labels"]) == len(questions)
        for row, conversation in enumerate(questions):
            counted = batch["labels"][row] != IGNORE_INDEX
            start = int(counted.nonzero()[0])
            prompt = batch["input_ids"][row, :start].tolist()
            assert prompt == tokens(data.train.student_ids[before["windows"][row]])[:start]
            assert tokenizer.decode(prompt).rstrip().endswith("assistant:")
            asked = PROMPT.format(prompt=conversation.prompt[-1].content, answer=conversation.answer)
            assert asked in tokenizer.decode(batch["teacher_input_ids"][row])
            assert conversation.answer not in tokenizer.decode(prompt)
            new = batch["input_ids"][row, counted].tolist()
            assert 1 <= len(new) <= 8
            behind = batch["teacher_input_ids"][row].tolist()
            assert any(behind[i : i + len(new)] == new for i in range(len(behind)))


def test_the_loss_is_the_divergence_of_the_two_ways_of_being_asked(own):
    trainer, _, teacher, _, batches, num_items = own
    batch = batches[0]
    got, _ = trainer.compute_step(trainer.model, dict(batch), num_items)
    spans, expected = batch["spans"], 0.0
    q = torch.log_softmax(trainer.model(input_ids=batch["input_ids"]).logits.double(), -1).flatten(0, 1)
    p = torch.log_softmax(teacher.model(input_ids=batch["teacher_input_ids"]).logits.double(), -1).flatten(0, 1)
    targets = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE_INDEX).flatten()
    student_rows = spans.student_rows[spans.student_starts[:-1]]
    teacher_rows = spans.teacher_rows[spans.teacher_starts[:-1]]
    asked = targets[student_rows] != IGNORE_INDEX
    assert asked.sum() == (batch["labels"] != IGNORE_INDEX).sum()
    q, p = q[student_rows[asked]], p[teacher_rows[asked]]
    expected = (q.exp() * (q - p)).sum(-1)
    assert got.item() == pytest.approx((expected.sum() / num_items).item(), rel=1e-4)
    # the same model asked in the same way would have nothing to teach
    assert expected.mean() > 1e-3


@pytest.mark.parametrize("stages", [False, True])
def test_it_acts_and_its_average_goes_with_it(place, tmp_path, stages):
    configure, prepare = place
    found = {}
    for name, options in {"plain": {"prompt": None}, "asked": {}, "average": {"average_decay": 0.5}}.items():
        config = configure(stages=stages, **options)
        run = make_run(tmp_path, name)
        plan = make_plan(config, run, prepare(config))
        train.distill(plan, open_teacher(plan))
        found[name] = load_file(run.path / "student" / "model.safetensors")
    for one, other in itertools.combinations(found, 2):
        assert any(not torch.equal(found[one][name], found[other][name]) for name in found[one]), (one, other)


@pytest.mark.parametrize("prompt", ["no answer", "{answer} {reference}", "{answer", "{answer} {0}"])
def test_a_prompt_without_the_answer_or_with_another_name_is_refused(prompt):
    with pytest.raises(UserError, match=r"teacher\.privileged_prompt: expected a text with {answer}"):
        config_from_values({"teacher": {"privileged_prompt": prompt}})


def test_plain_text_is_refused(tmp_path):
    config = make_config(tmp_path, teacher={"privileged_prompt": PROMPT})
    with pytest.raises(UserError, match=r"teacher\.privileged_prompt: expected conversations"):
        make_data(config, tmp_path)
