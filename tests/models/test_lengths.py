"""Every model's context, by whatever name its configuration has, is checked before weights are loaded."""

import pytest
import torch
from transformers import (
    BloomConfig,
    Gemma3Config,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    Qwen2Config,
    Qwen3MoeConfig,
    XLNetConfig,
)

from kdkit.distill import student as students
from kdkit.distill.in_memory import distill_models
from kdkit.distill.plan import plan_training
from kdkit.distill.student import make_student
from kdkit.errors import UserError
from kdkit.models.loading import context_length
from kdkit.teachers import prepare
from kdkit.teachers.prepare import prepare_teacher
from kdkit.teachers.probe import probe_teacher
from tests.tiny import make_config, make_data, make_llama, make_run, make_session, save_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 256}
LLAMA3 = YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "factor": 2.0}


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (GPT2Config(n_positions=64), 64),
        (GPTNeoConfig(max_position_embeddings=96), 96),
        (MptConfig(max_seq_len=80), 80),
        (LlamaConfig(max_position_embeddings=512), 512),
        (Qwen2Config(max_position_embeddings=256, rope_parameters=YARN), 1024),
        (LlamaConfig(max_position_embeddings=2048, rope_parameters=LLAMA3), 2048),
        (MistralConfig(max_position_embeddings=512, sliding_window=16), 512),
        (Gemma3Config(text_config={"max_position_embeddings": 320, "sliding_window": 32}), 320),
        (Qwen3MoeConfig(max_position_embeddings=300), 300),
        (BloomConfig(), None),
        (MambaConfig(), None),
        (XLNetConfig(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_context_is_found_under_every_name(config, context):
    assert context_length(config) == context


def make_gpt2(data, side: str, folder, positions: int):
    """Save an untrained GPT-2, whose positions are a table, with the tokenizer of one side of the data."""
    tokenizer = data.teacher_tokenizer if side == "teacher" else data.student_tokenizer
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_positions=positions, n_embd=16, n_layer=1, n_head=2)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("weights were loaded")

    for room in (prepare, students):
        monkeypatch.setattr(room, "load_causal_lm", refuse)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Folders of a teacher with 512 positions and of a student with 24, whose windows have up to 24 tokens."""
    folder = tmp_path_factory.mktemp("pair")
    data = make_data(make_config(folder), folder)
    make_gpt2(data, "student", folder / "student", 24)
    save_teacher(data, folder / "teacher")
    return folder, data


def configure(pair, **changes):
    folder, _ = pair
    values = {"teacher": {"path": str(folder / "teacher")}, "student": {"path": str(folder / "student")}}
    for section, content in changes.items():
        values[section] = values.get(section, {}) | content
    return make_config(folder, **values)


def test_a_teacher_with_a_short_table_of_positions_is_refused_before_it_is_loaded(pair, tmp_path, nothing_is_loaded):
    _, data = pair
    # the longest one is held out: it is read too
    longest, in_training = (int((w.teacher_ids >= 0).sum(axis=1).max()) for w in (data.evaluation, data.train))
    assert longest > in_training
    path = make_gpt2(data, "teacher", tmp_path / "short", longest - 1)
    config = configure(pair, teacher={"path": str(path)})
    message = (
        rf"teacher\.max_length: expected at most {longest - 1} tokens, the context of teacher\.path, got {longest} "
    )
    for stage in (prepare_teacher, plan_training):
        with pytest.raises(UserError, match=message + rf".*set teacher\.max_length={longest - 1}") as caught:
            stage(make_session(config), data)
        assert "\n" not in str(caught.value)


def test_the_remedy_of_a_short_teacher_works_in_every_stage_that_asks_it(pair, tmp_path):
    _, data = pair
    path = make_gpt2(data, "teacher", tmp_path / "short", 16)
    config = configure(pair, teacher={"path": str(path), "max_length": 16}, evaluate={"max_new_tokens": 30})
    short = make_data(config, tmp_path)
    session = make_session(config, make_run(tmp_path))
    probe = probe_teacher(session, short, prepare_teacher(session, short))
    assert probe["perplexity"] > 1 and len(probe["continuations"]) == 2


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_a_model_with_fewer_rows_than_its_tokenizer_is_refused_before_it_is_loaded(
    pair, tmp_path, nothing_is_loaded, side
):
    _, data = pair
    make_gpt2(data, side, tmp_path, 512)
    GPT2Config(vocab_size=261, n_positions=512, n_embd=16, n_layer=1, n_head=2).save_pretrained(tmp_path)
    config = configure(pair, **{side: {"path": str(tmp_path)}})
    with pytest.raises(UserError, match=rf"{side}\.path: expected at least \d+ vocabulary rows .* with 261; model and"):
        plan_training(make_session(config), data)


def test_one_of_several_teachers_with_a_short_context_is_refused(pair, tmp_path, nothing_is_loaded):
    _, data = pair
    path = make_gpt2(data, "teacher", tmp_path / "short", 8)
    config = configure(pair, teacher={"others": [str(path)]}, router={"kind": "all_experts"})
    with pytest.raises(UserError, match=r"at most 8 tokens, the context of teacher\.others, got"):
        plan_training(make_session(config), data)


def test_a_student_with_a_short_table_of_positions_is_refused_before_anything_is_loaded(
    pair, tmp_path, nothing_is_loaded
):
    _, data = pair
    path = make_gpt2(data, "student", tmp_path / "short", 20)
    config = configure(pair, student={"path": str(path)})
    with pytest.raises(
        UserError, match=r"data\.max_length: expected at most 20 .* student\.path, got 24 .*max_length=20"
    ):
        plan_training(make_session(config), data)


def own(new: int, prompt: int = 10):
    stage = {"name": "own", "max_steps": 1, "on_policy": {"prompt_length": prompt, "max_new_tokens": new}}
    return {"stages": [stage]}


def test_what_a_student_is_to_write_must_fit_its_context(pair, nothing_is_loaded):
    _, data = pair
    plan_training(make_session(configure(pair, train=own(13))), data)
    with pytest.raises(
        UserError,
        match=r"at most 24 tokens, the context of student\.path, got 11 \+ 14 in stage 'own'.*max_new_tokens=13",
    ):
        plan_training(make_session(configure(pair, train=own(14))), data)
    with pytest.raises(UserError, match=r"got 24 \+ 1 in stage 'own'.*shorter prompt_length"):
        plan_training(make_session(configure(pair, train=own(1, prompt=99))), data)


def test_a_teacher_that_reads_the_students_tokens_must_have_room_for_them(tmp_path, nothing_is_loaded):
    base = make_config(tmp_path, student={"build": {"tokenizer": "teacher"}})
    data = make_data(base, tmp_path)
    assert data.same_tokenizer
    path = str(make_gpt2(data, "teacher", tmp_path / "short", 30))
    student = {"build": {"tokenizer": "teacher"}}
    config = make_config(tmp_path, student=student, teacher={"path": path}, train=own(20))
    with pytest.raises(UserError, match=r"the context of teacher\.path, got 11 \+ 20 .*max_new_tokens=19"):
        plan_training(make_session(config), data)
    plan_training(make_session(make_config(tmp_path, student=student, teacher={"path": path}, train=own(19))), data)


def test_a_built_student_has_room_for_what_it_is_to_write(tmp_path):
    config = make_config(tmp_path, train=own(700))
    data = make_data(config, tmp_path)
    assert make_student(config, data).config.max_position_embeddings == 711


def test_distill_models_refuses_a_context_that_is_too_short(pair, tmp_path):
    _, data = pair
    teacher, student = make_llama(len(data.teacher_tokenizer)), make_llama(len(data.student_tokenizer))
    teacher.config.max_position_embeddings = 12
    texts = ["the quick brown fox jumps over a lazy dog while seven wizards boxed " * 3]
    with pytest.raises(UserError, match=r"max_length: expected at most 12 tokens, the context of teacher, got"):
        distill_models(
            teacher, student, data.teacher_tokenizer, data.student_tokenizer, texts, max_length=32, max_steps=1
        )
