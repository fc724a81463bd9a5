"""A teacher that answers NaN or inf is named at the first question: model, layer, text, and what to do."""

from dataclasses import replace

import pytest
import torch

from kdkit.distill.in_memory import distill_models
from kdkit.errors import UserError
from kdkit.models.finite import check_finite
from kdkit.teachers.prepare import Teacher, prepare_teacher
from kdkit.teachers.probe import probe_teacher
from tests.tiny import CPU, make_config, make_data, make_llama, make_run, make_session, make_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

REMEDY = r"train\.precision=fp32, or bf16"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finite")
    config = make_config(folder)
    return config, make_data(config, folder)


def break_(model: torch.nn.Module, name: str) -> None:
    with torch.no_grad():
        model.get_parameter(name)[0] = torch.inf


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("model.layers.0.self_attn.v_proj.weight", "model.layers.0.self_attn.v_proj"),
        ("model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.down_proj"),
        ("model.norm.weight", "model.norm"),
        ("lm_head.weight", "lm_head"),
    ],
)
def test_the_first_layer_that_is_not_finite_is_named(parameter, layer):
    model = make_llama(40).eval()
    ids = torch.tensor([[0, 3, 5]])
    check_finite(model, ids, "teacher.path", "a text")
    break_(model, parameter)
    with pytest.raises(
        UserError, match=rf"LlamaForCausalLM in float32, first in layer {layer}, for a text; .*{REMEDY}"
    ):
        check_finite(model, ids, "teacher.path", "a text")
    assert not any(module._forward_hooks for module in model.modules())


def test_an_overflow_of_fp16_is_found_though_the_weights_are_finite():
    model = make_llama(40).eval()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(3e5)
    ids = torch.tensor([[0, 3, 5]])
    check_finite(model, ids, "teacher.path", "a text")
    check_finite(model.bfloat16(), ids, "teacher.path", "a text")
    assert model.model.layers[0].mlp.down_proj.weight.abs().max() < torch.inf
    with pytest.raises(
        UserError, match=r"LlamaForCausalLM in float16, first in layer model\.layers\.0\.mlp\.down_proj"
    ):
        check_finite(model.half(), ids, "teacher.path", "a text")


def test_a_teacher_is_refused_where_it_is_loaded(prepared, tmp_path):
    config, data = prepared
    model = make_teacher(data).model
    break_(model, "model.layers.1.self_attn.v_proj.weight")
    model.save_pretrained(tmp_path)
    data.teacher_tokenizer.save_pretrained(tmp_path)
    config = make_config(tmp_path, teacher={"path": str(tmp_path)})
    with pytest.raises(
        UserError, match=r"^teacher\.path: .* in layer model\.layers\.1\.self_attn\.v_proj, for the first"
    ) as e:
        prepare_teacher(make_session(config), data)
    assert "\n" not in str(e.value)


def test_the_probe_names_the_text_on_which_a_teacher_overflows(prepared, tmp_path):
    """All other texts are answered well, the first of the training too."""
    config, data = prepared
    used = set(data.train.teacher_ids[0].tolist())
    windows = data.evaluation
    rare = next(id_ for row in range(1, len(windows)) for id_ in windows.teacher_ids[row].tolist() if id_ not in used)
    model = make_teacher(data).model
    with torch.no_grad():
        model.model.embed_tokens.weight[rare] = torch.inf
    first = next(i for i, ids in enumerate(windows.teacher_ids.tolist()) if rare in ids)
    opening = data.teacher_tokenizer.decode(windows.teacher_ids[first][1:4])
    session = make_session(config, make_run(tmp_path))
    with pytest.raises(UserError, match=r"first in layer model\.embed_tokens, for held-out sequence") as caught:
        probe_teacher(session, data, Teacher(model, "tiny", False))
    assert f"held-out sequence {first} (" in str(caught.value) and opening.strip() in str(caught.value)
    assert not (session.run.path / "teacher" / "probe.json").exists()


def test_two_models_in_memory_are_asked_first(prepared):
    _, data = prepared
    teacher, student = (make_llama(len(data.teacher_tokenizer)) for _ in range(2))
    break_(teacher, "model.norm.weight")
    tokenizer = data.teacher_tokenizer
    with pytest.raises(UserError, match=r"^teacher: .*first in layer model\.norm, for the first training sequence"):
        distill_models(teacher, student, tokenizer, tokenizer, ["the quick brown fox " * 9], max_length=16, max_steps=1)


def test_bf16_is_checked_as_it_is_run():
    """Under autocast the numbers are those of the training."""
    model, seen = make_llama(40).eval(), []
    model.model.layers[0].mlp.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    hardware = replace(CPU, precision="bf16")
    check_finite(model, torch.tensor([[0, 3]]), "teacher.path", "a text", hardware.autocast_dtype)
    assert seen == [torch.bfloat16]
