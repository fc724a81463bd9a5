"""Teachers that are built: the mixture starts from the weights that it always had, and may be a dense model."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM, set_seed

from kdkit.distill import train as stage
from kdkit.models.built.scratch import EMBEDDING_SPREAD
from kdkit.models.loading import num_experts
from kdkit.teachers import build
from kdkit.teachers.prepare import prepare_teacher
from kdkit.training.scoring import score_windows
from tests.tiny import CPU, make_config, make_data, make_plan, make_run, make_session

SIZES = {"vocab_size": 320, "hidden_size": 16, "num_layers": 2, "moe_intermediate_size": 16}
DENSE = {**SIZES, "num_experts": 0, "intermediate_size": 40, "max_steps": 30}


def make(folder, **options):
    config = make_config(folder, teacher={"build": SIZES | options})
    return config, make_data(config, folder)


def start(config, data):
    """Return a teacher before its first step."""
    set_seed(config.seed)
    return build._from_random_weights(build._architecture(config, data, CPU))


def test_the_default_mixture_starts_from_the_weights_that_it_always_had(tmp_path):
    config, data = make(tmp_path)
    set_seed(config.seed)
    expected = Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=len(data.teacher_tokenizer),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=4,
            num_experts=8,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            intermediate_size=32,
            norm_topk_prob=True,
            initializer_range=0.5 / 16**0.5,
        )
    )
    with torch.no_grad():
        expected.get_input_embeddings().weight.normal_(std=EMBEDDING_SPREAD)
    weights = start(config, data).state_dict()
    assert all(torch.equal(weights[name], value) for name, value in expected.state_dict().items())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"num_experts": 0}, "Qwen3ForCausalLM"),
        ({"num_experts": 0, "qk_norm": False, "num_key_value_heads": 2}, "LlamaForCausalLM"),
        ({"num_experts": 0, "qk_norm": False, "sliding_window": 4}, "MinistralForCausalLM"),
        ({"hidden_act": "relu2", "sliding_window": 4, "num_key_value_heads": 2}, "Qwen3MoeForCausalLM"),
        ({"tie_embeddings": True}, "Qwen3MoeForCausalLM"),
    ],
)
def test_a_teacher_has_the_class_that_its_settings_need_and_computes(tmp_path, options, name):
    config, data = make(tmp_path, **options)
    model = start(config, data)
    assert type(model).__name__ == name
    assert model(input_ids=torch.arange(12)[None]).logits.isfinite().all()


def test_a_window_in_a_mixture_hides_what_lies_before_it(tmp_path):
    config, data = make(tmp_path, sliding_window=3)
    model, ids = start(config, data).eval(), torch.arange(12)[None]
    other = ids.clone()
    other[:, 0] = 50
    with torch.no_grad():
        change = (model(input_ids=ids).logits - model(input_ids=other).logits).abs().amax(-1)[0]
    # two layers of a window of three; which rows experts compute together changes the last digits
    assert change[:5].min() > 1e-3 and change[5:].max() < 1e-5


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    config = make_config(
        folder,
        teacher={"build": DENSE},
        student={
            "build": {
                "vocab_size": 290,
                "hidden_size": 16,
                "num_layers": 2,
                "intermediate_size": 32,
                "sliding_window": 6,
                "tie_embeddings": True,
                "num_key_value_heads": 2,
            }
        },
        distill={"start_from_teacher": True},
    )
    data, run = make_data(config, folder), make_run(folder)
    teacher = prepare_teacher(make_session(config, run), data)
    stage.distill(make_plan(config, run, data), teacher)
    return config, data, run, teacher


def test_a_dense_teacher_is_trained_and_better_than_chance(dense):
    _, data, run, teacher = dense
    assert type(teacher.model).__name__ == "Qwen3ForCausalLM"
    assert (num_experts(teacher.model.config), teacher.model.config.intermediate_size) == (0, 40)
    assert score_windows(teacher.model, data.evaluation, "teacher", 8).perplexity < len(data.teacher_tokenizer) * 0.8
    losses = [line["loss"] for line in run.read_metrics() if line["phase"] == "teacher" and "loss" in line]
    assert losses[-1] < losses[0] - 0.5


def test_a_dense_teacher_teaches_a_student_with_windows_grouped_heads_and_one_table(dense):
    _, _, run, _ = dense
    student = AutoModelForCausalLM.from_pretrained(run.path / "student")
    values = json.loads((run.path / "student" / "config.json").read_text())
    assert values["architectures"] == ["MinistralForCausalLM"]
    assert (values["sliding_window"], values["num_key_value_heads"], values["tie_word_embeddings"]) == (6, 2, True)
    assert student.lm_head.weight is student.model.embed_tokens.weight
    losses = [line["kd_loss"] for line in run.read_metrics() if line["phase"] == "student" and "kd_loss" in line]
    assert losses[-1] < losses[0]


def test_the_size_of_a_teacher_is_said_before_it_is_built(tmp_path, capsys):
    config, data = make(tmp_path, num_experts=0, max_steps=1)
    prepare_teacher(make_session(config, make_run(tmp_path)), data)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("teacher: "))
    parameters = sum(parameter.numel() for parameter in start(config, data).parameters())
    assert f"teacher: {parameters:,} parameters" in line
