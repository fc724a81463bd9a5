"""Teachers made narrower: what is zero is not missed, the largest stays, and the result is an ordinary model."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, GPT2Config, OlmoeConfig

from kdkit.config.built.from_teacher import Prune
from kdkit.errors import UserError
from kdkit.models.from_teacher import widths
from kdkit.models.from_teacher.activations import find_norms, measure_activations
from kdkit.models.from_teacher.start import make_start, start_architecture
from kdkit.models.from_teacher.text import mean_nats
from tests.pruned import IDS, TEXT, make_model

KINDS = ("llama", "tied", "mixture")


@pytest.mark.parametrize("kind", KINDS)
def test_pruning_nothing_changes_no_logit(kind):
    teacher = make_model(kind)
    assert torch.equal(make_start(Prune(), teacher, TEXT).model(input_ids=IDS).logits, teacher(input_ids=IDS).logits)


@torch.no_grad()
def empty(model, channels, heads, units):
    """Set channels of the residual stream to zero, the values of heads, and inner units."""
    model.model.embed_tokens.weight[:, channels] = 0.0
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        experts = getattr(mlp, "experts", None)
        last = mlp.down_proj.weight if experts is None else experts.down_proj
        for table in (attention.o_proj.weight, last):
            table[..., channels, :] = 0.0
        values = [row for head in heads for row in range(8 * head, 8 * head + 8)]
        attention.v_proj.weight[values] = 0.0
        if attention.o_proj.bias is not None:
            attention.o_proj.bias[channels] = attention.v_proj.bias[values] = 0.0
        if experts is None:
            mlp.up_proj.weight[units] = 0.0
        else:
            experts.gate_up_proj[:, [experts.down_proj.shape[2] + unit for unit in units]] = 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_zero_is_found_and_not_missed(kind):
    teacher, inner = make_model(kind), 16 if kind == "mixture" else 48
    empty(teacher, list(range(3, 11)), [0], list(range(0, 16, 2)))
    settings = Prune(hidden_size=24, num_key_value_heads=1, intermediate_size=inner - 8)
    start = make_start(settings, teacher, TEXT)
    assert start.facts["channels"] == [number for number in range(32) if not 3 <= number < 11]
    assert start.facts["heads"] == [[2, 3]] * 3  # those that share the second head of keys and values
    assert start.model.num_parameters() < teacher.num_parameters()
    assert torch.allclose(start.model(input_ids=IDS).logits, teacher(input_ids=IDS).logits, atol=1e-4)


def test_each_head_of_keys_and_values_keeps_as_many_of_its_query_heads():
    start = make_start(Prune(num_heads=2, num_key_value_heads=2), make_model(), TEXT)
    assert all(len(heads) == 2 and heads[0] < 2 <= heads[1] for heads in start.facts["heads"])
    assert (start.model.config.num_attention_heads, start.model.config.head_dim) == (2, 8)


def test_activations_are_mean_sizes_over_places_and_root_mean_squares_over_sequences():
    teacher, is_read = make_model(), TEXT[0].is_read
    caught = {}
    teacher.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, args: caught.update(inner=args[0]))
    teacher.model.layers[1].self_attn.o_proj.register_forward_pre_hook(lambda _, args: caught.update(heads=args[0]))
    found = measure_activations(teacher, TEXT)
    places = is_read[..., None] / is_read.sum(dim=1)[:, None, None]
    inner = (caught["inner"].abs() * places).sum(dim=1).square().sum(dim=0).sqrt()
    lengths = caught["heads"].view(*IDS.shape, 4, 8).norm(dim=-1)
    heads = (lengths * places).sum(dim=1).square().sum(dim=0).sqrt()
    assert torch.allclose(found.inner[1], inner, rtol=1e-4) and torch.allclose(found.heads[1], heads, rtol=1e-4)
    states = teacher.model(input_ids=IDS, output_hidden_states=True).hidden_states
    assert torch.allclose(
        found.energies["model.layers.0.input_layernorm"], states[0][is_read].square().sum(dim=0), rtol=1e-4
    )


def test_units_of_experts_count_by_routing():
    """Each expert's units, computed for every token by hand, times its routing weight."""
    teacher, is_read = make_model("mixture"), TEXT[0].is_read
    caught = {}
    experts = teacher.model.layers[1].mlp.experts
    experts.register_forward_pre_hook(lambda _, args: caught.update(args=args))
    found = measure_activations(teacher, TEXT).inner[1]
    hidden, chosen, weights = caught["args"]
    expected = torch.zeros(4, 16)
    for expert in range(4):
        gate, up = (hidden @ experts.gate_up_proj[expert].T).chunk(2, dim=-1)
        share = torch.where(chosen == expert, weights, 0.0).sum(dim=1, keepdim=True)
        sizes = ((torch.nn.functional.silu(gate) * up).abs() * share).view(*IDS.shape, 16)
        means = (sizes * is_read[..., None]).sum(dim=1) / is_read.sum(dim=1)[:, None]
        expected[expert] = means.square().sum(dim=0).sqrt()
    assert torch.allclose(found, expected, rtol=1e-4)


def test_rescaled_norms_read_what_they_read_before(monkeypatch):
    """Without the rescaling, the states behind the first norm are further from the teacher's."""
    teacher = make_model()
    channels = make_start(Prune(hidden_size=16), teacher, TEXT).facts["channels"]

    def distance(model):
        ours, theirs = (next(iter(find_norms(each).values())) for each in (model, teacher))
        states = [norm(each.model.embed_tokens(IDS)) for norm, each in ((ours, model), (theirs, teacher))]
        return (states[0] - states[1][..., channels]).norm().item()

    scaled = distance(make_start(Prune(hidden_size=16), teacher, TEXT).model)
    monkeypatch.setattr(widths, "_rescale_norms", lambda *_: None)
    assert scaled < 0.8 * distance(make_start(Prune(hidden_size=16), teacher, TEXT).model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pruned_student_is_saved_and_loaded_as_an_ordinary_model(kind, tmp_path):
    settings = Prune(num_layers=2, hidden_size=24, num_heads=2, intermediate_size=8)
    student = make_start(settings, make_model(kind), TEXT).model
    student.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(input_ids=IDS).logits, student(input_ids=IDS).logits)
    assert (
        loaded.config.to_dict().items() >= start_architecture(settings, make_model(kind).config).to_diff_dict().items()
    )
    assert mean_nats(loaded, TEXT) == pytest.approx(mean_nats(student, TEXT))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("llama", {"hidden_size": 40}, "hidden_size: expected at most the teacher's 32, got 40"),
        ("llama", {"num_heads": 3}, "num_heads: expected a multiple of 2, .* got 3"),
        ("llama", {"num_heads": 8}, "num_heads: expected at most the teacher's 4, got 8"),
        (
            "llama",
            {"num_heads": 3, "num_key_value_heads": 2},
            "num_heads: .* = 2, at most 4, .* got 3",
        ),
        (
            "llama",
            {"num_heads": 4, "num_key_value_heads": 1},
            "num_heads: .* = 1, at most 2, .* got 4; set .*=2",
        ),
        ("llama", {"num_layers": 4}, "num_layers: expected at most the teacher's 3 layers, got 4"),
        ("mixture", {"intermediate_size": 12}, "intermediate_size: expected a multiple of 8 .* got 12; set 8"),
        ("mixture", {"hidden_size": 20}, "hidden_size: expected a multiple of 8 .* got 20; set 16"),
    ],
)
def test_sizes_that_the_teacher_has_not_are_refused_by_its_architecture_alone(kind, settings, message):
    with pytest.raises(UserError, match=f"student.from_teacher.{message}"):
        start_architecture(Prune(**settings), make_model(kind).config)


@pytest.mark.parametrize("architecture", [GPT2Config(), OlmoeConfig(hidden_size=64)])
def test_other_constructions_are_refused_before_anything_is_made(architecture):
    with pytest.raises(UserError, match="expected a teacher built like a Llama"):
        start_architecture(Prune(), architecture)


def test_a_model_that_computes_something_else_is_refused():
    """Gemma scales its embeddings by the width, and its norms by 1 + weight."""
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 1, "head_dim": 8, "intermediate_size": 48}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    teacher = Gemma2ForCausalLM(Gemma2Config(**sizes, **heads)).eval()
    with pytest.raises(UserError, match=r"computes something else \(logits differ by .*\); set .*=layers"):
        make_start(Prune(hidden_size=16), teacher, TEXT)
