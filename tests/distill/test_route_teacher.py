"""Which sources a router gets, and the one line that answers what cannot be routed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdkit import cli
from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.config.language import config_from_values
from kdkit.distill import train as stage
from kdkit.errors import UserError
from kdkit.teachers.mixing import MixedSignals
from kdkit.teachers.prepare import Teacher
from tests.routed import Scene, make_mixture, make_scene
from tests.tiny import WORDS, make_llama, make_plan, make_run

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]
TWO = {"final_top_k": 2, "update_every": 1, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("routing"))


@pytest.fixture(scope="module")
def dense(scene):
    """The same with a dense teacher of two layers."""
    model = make_llama(len(scene.data.teacher_tokenizer), seed=1)
    model.config.num_hidden_layers = 2
    deep = type(model)(model.config).eval().requires_grad_(False)
    return replace(scene, teacher=Teacher(deep, "tiny", True))


@pytest.fixture(scope="module")
def others(scene, tmp_path_factory) -> dict[str, str]:
    """Folders of more teachers: one with the teacher's tokenizer, one with another."""
    folder = tmp_path_factory.mktemp("others")
    tokenizers = {"same": scene.data.teacher_tokenizer, "another": train_tokenizer([" ".join(WORDS[::-1])] * 20, 300)}
    for name, tokenizer in tokenizers.items():
        make_mixture(len(tokenizer), seed=5).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: str(folder / name) for name in tokenizers}


def with_others(scene: Scene, *paths: str) -> Scene:
    teacher = scene.config.teacher.model_copy(update={"others": list(paths)})
    return replace(scene, config=scene.config.model_copy(update={"teacher": teacher}))


def refusal(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message and "expected" in message and "got" in message
    return message


# ---- sources ----


def test_a_mixture_of_experts_is_routed_over_its_experts(scene):
    teacher = scene.route("student_aware")
    assert teacher.sources.what == "experts" and teacher.router.gates.shape == (2, 4, 16)
    gates = [layer.mlp.gate.weight for layer in scene.teacher.model.model.layers]
    assert torch.equal(teacher.router.gates, torch.stack(gates))


def test_the_last_layers_of_a_dense_teacher_are_mixed(dense):
    teacher = dense.route("student_aware", sources="layers", num_layers=2, **TWO)
    (signals,) = dense.ask(teacher, [0, 3])
    assert isinstance(signals, MixedSignals) and len(signals.parts) == 2
    assert teacher.router.gates.grad.abs().max() > 0 and teacher.router.gates.any()
    assert sum(teacher.describe()["shares"][0]) == pytest.approx(1.0, abs=1e-5)


def test_several_teachers_of_one_tokenizer_are_mixed(scene, others):
    teacher = with_others(scene, others["same"]).route("student_aware", **TWO)
    (signals,) = scene.ask(teacher, [0, 3])
    assert teacher.sources.what == "teachers" and len(signals.parts) == 2
    assert not torch.allclose(signals.parts[0].hidden, signals.parts[1].hidden)
    assert teacher.router.gates.grad.abs().max() > 0


@pytest.mark.parametrize("kind", ["all_experts", "student_aware_routing", "student_aware"])
def test_a_student_is_trained_by_several_teachers(scene, others, tmp_path, kind):
    several = with_others(scene, others["same"])
    router = several.config.router.model_copy(update={"kind": kind} | TWO)
    train = several.config.train.model_copy(update={"max_steps": 2})
    config = several.config.model_copy(update={"router": router, "train": train})
    run = make_run(tmp_path)
    stage.distill(make_plan(config, run, scene.data), scene.teacher)
    lines = [line for line in run.read_metrics() if line["phase"] == "router"]
    assert len(lines) == 2 and [len(line["shares"][0]) for line in lines] == [2, 2]
    if kind == "all_experts":
        assert lines[0]["shares"][0] == pytest.approx([0.5, 0.5])


def test_equal_weights_of_equal_teachers_are_the_teacher(scene, tmp_path):
    scene.teacher.model.save_pretrained(tmp_path / "twin")
    scene.data.teacher_tokenizer.save_pretrained(tmp_path / "twin")
    (mixed,) = scene.ask(with_others(scene, str(tmp_path / "twin")).route("all_experts"), [0, 3])
    inputs = scene.batch([0, 3])
    own = scene.online().answer(inputs, torch.device("cpu"))
    rows = torch.arange(len(own.hidden))
    assert torch.allclose(mixed.logits(rows), own.logits(rows).log_softmax(dim=-1), atol=1e-5)


# ---- refusals ----


def test_another_tokenizer_is_refused_in_a_mixture(scene, others):
    with pytest.raises(UserError, match=r"teacher.others: expected the tokenizer of teacher.path") as error:
        with_others(scene, others["another"]).route("all_experts")
    assert others["another"] in refusal(error)


@pytest.mark.parametrize("kind", ["all_experts", "student_aware_routing", "student_aware", "knowledge_augmentation"])
def test_one_dense_teacher_is_nothing_to_route_over(dense, kind):
    with pytest.raises(UserError, match=r"router.kind: expected something to route over") as error:
        dense.route(kind)
    assert "router.sources=layers" in refusal(error) and "LlamaForCausalLM" in refusal(error)


def test_a_k_above_the_number_of_sources_is_refused(scene, dense, others):
    with pytest.raises(UserError, match=r"router.final_top_k: expected at most 4, the number of experts, got 5"):
        scene.route("student_aware", final_top_k=5)
    with pytest.raises(UserError, match=r"router.training_top_k: expected at most 4, .* got 6") as error:
        scene.route("student_aware_routing", training_top_k=6)
    assert refusal(error)
    with pytest.raises(UserError, match=r"expected at most 2, the number of teachers, got 4"):
        with_others(scene, others["same"]).route("student_aware", final_top_k=4)
    with pytest.raises(UserError, match=r"router.num_layers: expected at most 2, the layers of the teacher, got 4"):
        dense.route("all_experts", sources="layers")


def test_a_single_layer_is_nothing_to_route_over(dense):
    with pytest.raises(UserError, match=r"router.kind: expected at least 2 layers to route over, got 1") as error:
        dense.route("all_experts", sources="layers", num_layers=1)
    assert refusal(error)


def test_the_trap_of_a_single_trained_expert_is_explained(scene):
    with pytest.raises(UserError, match=r"router.training_top_k: .*gradient of the gates is exactly zero") as error:
        scene.route("student_aware_routing", training_top_k=1)
    assert refusal(error)
    model = make_mixture(len(scene.data.teacher_tokenizer), normalised=False)
    free = replace(scene, teacher=Teacher(model, "tiny", True)).route("student_aware_routing", training_top_k=1)
    scene.ask(free, [0, 3])
    assert free.router.gates.grad.abs().max() > 0, "weights that need not sum to 1 do have a gradient"


BAD = {
    "shrinking": ({"kind": "student_aware", "initial_top_k": 4, "final_top_k": 2}, r"router.initial_top_k: .* swap"),
    "negative balance": ({"balance_weight": -1}, r"router.balance_weight"),
    "negative anchor": ({"anchor_weight": -0.5}, r"router.anchor_weight"),
    "no expert": ({"initial_top_k": 0}, r"router.initial_top_k"),
    "one pass": ({"num_passes": 1}, r"router.num_passes"),
    "rate": ({"augmentation_rate": 1.5}, r"router.augmentation_rate"),
    "cold": ({"final_temperature": 0}, r"router.final_temperature"),
    "share": ({"schedule_share": 0}, r"router.schedule_share"),
    "kind": ({"kind": "best"}, r"router.kind: expected .*'student_aware'.* got 'best'"),
    "typo": ({"final_topk": 2}, r"router.final_topk: expected a known key.*final_top_k"),
    "no others": ({"kind": "all_experts", "sources": "teachers"}, r"router.sources: expected 'teachers' where"),
    "left out": ({"kind": "knowledge_augmentation", "sources": "layers"}, r"router.kind: .*knowledge_augmentation"),
}


@pytest.mark.parametrize(("values", "message"), BAD.values(), ids=BAD)
def test_bad_settings_are_answered_with_one_line(values, message):
    with pytest.raises(UserError, match=message) as error:
        config_from_values({"router": values})
    assert refusal(error)


def test_a_router_and_a_cache_exclude_each_other_with_the_reason():
    for kind in ("all_experts", "knowledge_augmentation", "student_aware_routing", "student_aware"):
        with pytest.raises(UserError, match=r"cache holds what one fixed teacher says.*cache.enabled=false") as error:
            config_from_values({"router": {"kind": kind}, "cache": {"enabled": True}})
        assert refusal(error)


def test_more_teachers_need_a_router_and_experts_need_one_teacher():
    with pytest.raises(UserError, match=r"teacher.others: expected a router") as error:
        config_from_values({"teacher": {"others": ["a"]}})
    assert refusal(error)
    for sources in ("experts", "layers"):
        with pytest.raises(UserError, match=r"router.sources") as error:
            config_from_values({"teacher": {"others": ["a"]}, "router": {"kind": "all_experts", "sources": sources}})
        assert refusal(error)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ["router.kind=student_aware", "router.initial_top_k=5", "router.final_top_k=4"],
            "router.initial_top_k: expected at most",
        ),
        (["router.kind=student_aware", "cache.enabled=true"], "router.kind: expected none with cache.enabled"),
        (["router.kind=all_experts", "router.sources=teachers"], "router.sources: expected 'teachers'"),
    ],
)
def test_the_command_answers_in_one_line_before_anything_runs(settings, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    parameters = [word for setting in settings for word in ("-p", setting)]
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "configs/smoke.yaml", "--runs-dir", str(tmp_path / "runs"), *parameters])
    answer = capsys.readouterr().err
    assert stop.value.code == 2 and words in answer
    assert answer.startswith("kdkit: ") and answer.count("\n") == 1
    assert not (tmp_path / "runs").exists()
