"""An on-policy stage of conversations: the student answers their prompts, each model in its own template."""

import json

import pytest
import torch

from kdkit.alignment.templates import render_prompt, stop_ids, template_of
from kdkit.distill import train
from kdkit.distill.student import make_student
from kdkit.losses.cross_entropy import IGNORE_INDEX
from tests.distill.own_text import NEW, batches_of, on_policy, writes
from tests.tiny import WORDS, make_config, make_data, make_plan, make_run, make_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = (
    "{% for message in messages %}### {{ message['role'] }}:\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
"""A template without special tokens: a text ends an answer."""


def write_conversations(path, count=60):
    """Write questions and answers, all distinct, some with two turns."""
    rows = []
    for number in range(count):
        words = [WORDS[(number * 5 + i) % len(WORDS)] for i in range(3 + number % 5)]
        messages = [{"role": "user", "content": f"{words[0]} {number}?"}]
        messages.append({"role": "assistant", "content": " ".join(words)})
        if number % 3 == 0:
            messages += [{"role": "user", "content": "and?"}, {"role": "assistant", "content": f"{number} {words[1]}"}]
        rows.append({"messages": messages})
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """Configuration, data and teacher of conversations, for one tokenizer and for two with different templates."""
    made = {}
    for name, tokenizer, template in (("same", "teacher", None), ("two", "own", PLAIN)):
        folder = tmp_path_factory.mktemp(name)
        build = {"vocab_size": 290, "hidden_size": 16, "num_layers": 1, "intermediate_size": 32, "tokenizer": tokenizer}
        teacher = {"build": {"vocab_size": 330, "hidden_size": 16, "num_layers": 2, "moe_intermediate_size": 16}}
        config = make_config(
            folder,
            data={"path": str(write_conversations(folder / "chat.jsonl")), "max_length": 96},
            student={"build": build},
            teacher=teacher | ({"chat_template": template} if template else {}),
        )
        data = make_data(config, folder)
        assert data.is_chat
        made[name] = (config, data, make_teacher(data))
    assert made["same"][1].same_tokenizer and not made["two"][1].same_tokenizer
    return made


def make_trainer(chats, name, tmp_path, **changes):
    config, data, teacher = chats[name]
    config = on_policy(config, **changes)
    plan = make_plan(config, make_run(tmp_path), data)
    return train.make_trainer(plan, plan.stages[0], make_student(config, data), teacher)


def tokens(ids, labels=None):
    """Return the ids of a row; with labels, of the tokens in the loss."""
    return ids.tolist() if labels is None else ids[labels != IGNORE_INDEX].tolist()


@pytest.mark.parametrize("name", ["same", "two"])
def test_every_prompt_is_answered_in_both_templates_and_the_answer_alone_is_learnt(chats, tmp_path, monkeypatch, name):
    trainer = make_trainer(chats, name, tmp_path)
    data, text = trainer.data, " quick lazy"
    student, teacher = data.student_tokenizer, data.teacher_tokenizer
    own = student(text, add_special_tokens=False).input_ids
    ends = template_of(student).end_id, template_of(teacher).end_id
    calls = writes(monkeypatch, trainer, [*own, ends[0]])
    batches, num_items, given = batches_of(trainer)
    assert len(calls) == len(batches) == 2
    for call, batch, of_data in zip(calls, batches, given, strict=True):
        conversations = [data.prompts("train")[row] for row in of_data["windows"]]
        for i, conversation in enumerate(conversations):
            read = render_prompt(conversation.prompt, student), render_prompt(conversation.prompt, teacher)
            whole = [*read[0], *own, ends[0]]
            assert tokens(batch["input_ids"][i])[: len(whole)] == whole
            assert tokens(batch["input_ids"][i], batch["labels"][i]) == [*own, ends[0]]
            taught = [*read[1], *teacher(text, add_special_tokens=False).input_ids, ends[1]]
            assert tokens(batch["teacher_input_ids"][i])[: len(taught)] == taught
        assert set(call["generation_config"].eos_token_id) == set(stop_ids(student))
        assert call["generation_config"].max_new_tokens == NEW
        assert batch["is_own_text"]
    assert num_items == sum(len(batch["windows"]) for batch in given) * (len(own) + 1)


def test_the_two_models_read_different_words_around_the_same_answer(chats):
    _, data, _ = chats["two"]
    prompt = data.prompts("train", 1)[0].prompt
    texts = [each.decode(render_prompt(prompt, each)) for each in (data.student_tokenizer, data.teacher_tokenizer)]
    assert "<|im_start|>user" in texts[0] and "### user:" in texts[1] and "im_start" not in texts[1]


@pytest.mark.parametrize("name", ["same", "two"])
def test_the_loss_on_own_answers_is_finite_and_trains_the_student(chats, tmp_path, name):
    trainer = make_trainer(chats, name, tmp_path, first_share=0.7)
    (batch, *_), num_items, _ = batches_of(trainer, 1)
    loss, terms = trainer.compute_step(trainer.model, batch, num_items)
    loss.backward()
    gradients = [p.grad.abs().sum() for p in trainer.model.parameters() if p.grad is not None]
    assert torch.isfinite(loss) and loss > 0 and sum(gradients) > 0
    assert terms["kd_weighted"] == pytest.approx(loss.item(), rel=1e-5)  # the teacher's term alone


def test_a_first_share_cuts_the_end_of_an_answer(chats, tmp_path, monkeypatch):
    trainer = make_trainer(chats, "same", tmp_path, first_share=0.5)
    own = trainer.data.student_tokenizer(" quick lazy fox", add_special_tokens=False).input_ids
    end = template_of(trainer.data.student_tokenizer).end_id
    writes(monkeypatch, trainer, [*own, end])
    (batch, *_), _, _ = batches_of(trainer, 1)
    wanted = [*own, end][: -(-(len(own) + 1) // 2)]
    assert tokens(batch["input_ids"][0], batch["labels"][0]) == wanted


def test_a_stage_on_own_answers_is_trained_and_resumes_the_same(chats, tmp_path):
    config, data, teacher = chats["two"]
    config = on_policy(config)
    losses = []
    for name in ("a", "b"):
        run = make_run(tmp_path, name)
        train.distill(make_plan(config, run, data), teacher)
        losses.append([line["loss"] for line in run.read_metrics() if "loss" in line])
    assert losses[0] == losses[1] and len(losses[0]) == 4
