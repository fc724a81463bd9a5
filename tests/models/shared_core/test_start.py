"""A shared core with wrappers: exact where the parts differ by little, smaller, saved, trained, made ordinary again."""

import json

import pytest
import torch
import transformers

from kdkit.config.built.from_teacher import ShareCore
from kdkit.errors import UserError
from kdkit.models.moe_blocks import find_blocks
from kdkit.models.shared_core.expand import make_plain
from kdkit.models.shared_core.model import linears, register_shared_cores
from kdkit.models.shared_core.start import share_core, shared_architecture
from kdkit.models.taps import decoder_layers
from tests.mixtures import INPUT_IDS, logits_of, shuffle_units
from tests.models.test_experts import ARCHITECTURES, SHAPE, make_model

pytestmark = pytest.mark.usefixtures("one_thread")

KEY = "student.from_teacher"
MIXTURES, DENSE = ("qwen3_moe", "qwen3_moe, not normalised", "mixtral"), ("llama", "qwen3")
LARGE = {"hidden_size": 16, "num_hidden_layers": 4}


@pytest.fixture(autouse=True)
def dense_models(monkeypatch):
    register_shared_cores()
    monkeypatch.setitem(ARCHITECTURES, "llama", ("Llama", SHAPE | LARGE | {"attention_bias": True}))
    monkeypatch.setitem(ARCHITECTURES, "qwen3", ("Qwen3", SHAPE | LARGE | {"head_dim": 8}))


def make_shared(model, rank, **settings):
    """Return the student alone."""
    return share_core(ShareCore(wrapper_rank=rank, **settings), model)[0]


def low_rank(shape, generator):
    rows, columns = shape
    return 0.3 * torch.randn(rows, 1, generator=generator) @ torch.randn(1, columns, generator=generator)


def make_alike(architecture):
    """Make a model whose experts, or pairs of layers, differ by two matrices of rank 1, their hidden units shuffled."""
    model, generator = make_model(architecture), torch.Generator().manual_seed(3)
    if architecture in DENSE:
        for first, second in ((0, 1), (2, 3)):
            layers = decoder_layers(model)
            for name, linear in linears(layers[first]):
                other = layers[second].get_submodule(name)
                other.weight.copy_(linear.weight + low_rank(linear.weight.shape, generator))
        return model
    for block in find_blocks(model, "teacher.path"):
        for weights in (block.experts.gate_up_proj, block.experts.down_proj):
            for expert in range(1, 5):
                weights[expert] = weights[0]
            weights[1] += 0.1 * low_rank(weights[0].shape, generator)
            weights[2] += 0.1 * low_rank(weights[0].shape, generator)
        shuffle_units(block, 4, seed=2)
    return model


@pytest.mark.parametrize("architecture", MIXTURES + DENSE)
def test_parts_that_differ_by_little_are_shared_exactly(architecture):
    model = make_alike(architecture)
    student = make_shared(model, 2, layers_per_core=2)
    assert torch.allclose(logits_of(student), logits_of(model), rtol=1e-4, atol=2e-5)
    assert student.num_parameters() < model.num_parameters()
    assert (logits_of(make_shared(model, 1, layers_per_core=2)) - logits_of(model)).abs().max() > (
        1e-2 if architecture in MIXTURES else -1  # half the difference of two layers has rank 1
    )


def test_a_core_may_be_one_of_the_parts():
    model = make_alike("qwen3_moe")
    student = make_shared(model, 2, core="nearest")
    experts = find_blocks(model, KEY)[0].experts
    core = decoder_layers(student)[0].mlp.experts.shared_core.gate_up_proj
    assert any(torch.equal(core, expert) for expert in experts.gate_up_proj)
    assert torch.allclose(logits_of(student), logits_of(model), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("architecture", DENSE)
def test_a_higher_rank_is_nearer_to_the_teacher(architecture):
    model = make_model(architecture)
    far = []
    for rank in (1, 2, 4):
        plain = make_plain(make_shared(model, rank))
        pairs = zip(plain.state_dict().values(), model.state_dict().values(), strict=True)
        far.append(sum(float((one - other).square().sum()) for one, other in pairs))
    assert far == sorted(far, reverse=True)


@pytest.mark.parametrize("architecture", MIXTURES + DENSE)
def test_it_is_saved_loaded_and_made_ordinary_again(architecture, tmp_path):
    student = make_shared(make_model(architecture), 2)
    student.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())["compression_config"]
    assert (settings["kind"], settings["wrapper_rank"], settings["core"]) == ("shared_core", 2, "mean")
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert torch.equal(logits_of(loaded), logits_of(student))
    plain = make_plain(loaded)
    assert type(plain) is type(make_model(architecture))
    assert torch.allclose(logits_of(plain), logits_of(student), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["qwen3_moe", "llama"])
def test_it_writes_as_its_ordinary_form_does(architecture):
    student = make_shared(make_alike(architecture), 2, layers_per_core=2)
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(INPUT_IDS)}
    assert torch.equal(student.generate(INPUT_IDS, **options), make_plain(student).generate(INPUT_IDS, **options))


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3"])
def test_gradients_are_those_of_the_ordinary_form(architecture):
    student = make_shared(make_alike(architecture), 2, layers_per_core=2).requires_grad_(True)
    plain = make_plain(student).requires_grad_(True)
    for model in (student, plain):
        model(input_ids=INPUT_IDS, labels=INPUT_IDS, use_cache=False).loss.backward()
    layers, others = decoder_layers(student), decoder_layers(plain)
    if architecture == "qwen3":
        wanted = sum(others[number].self_attn.v_proj.weight.grad for number in (0, 1))
        got, wrapper = layers[0].self_attn.v_proj.core.grad, layers[1].self_attn.v_proj.wrapper
        own = others[1].self_attn.v_proj.weight.grad
    else:
        wanted = others[0].mlp.experts.gate_up_proj.grad.sum(dim=0)
        got, wrapper = layers[0].mlp.experts.shared_core.gate_up_proj.grad, layers[0].mlp.experts.gate_up_wrapper
        own = others[0].mlp.experts.gate_up_proj.grad
    assert torch.allclose(got, wanted, rtol=1e-3, atol=1e-5)
    assert torch.allclose(wrapper.outward.grad, own @ wrapper.inward.transpose(-1, -2), rtol=1e-3, atol=1e-5)


def test_names_tell_wrappers_and_cores_apart():
    for architecture in ("mixtral", "llama"):
        model = make_model(architecture)
        student = make_shared(model, 2)
        names = dict(student.named_parameters())
        wrappers = {name for name in names if "wrapper" in name}
        cores = {name for name in names if "shared_core" in name}
        assert wrappers and cores and not wrappers & cores
        assert {name for name in names if name not in wrappers | cores} < set(dict(model.named_parameters()))


@pytest.mark.parametrize(
    ("architecture", "rank", "layers", "message"),
    [
        ("qwen3_moe", 7, None, r"^student.from_teacher.wrapper_rank: expected at most 6, .* the 5 parts .*, got 7"),
        ("llama", 9, 2, r"^student.from_teacher.wrapper_rank: expected at most 4, .* the 2 parts .*, got 9"),
        (
            "llama",
            1,
            3,
            r"^student.from_teacher.layers_per_core: expected a divisor .* 4 layers above 1 \(2, 4\), got 3",
        ),
        ("llama", 1, 1, r"^student.from_teacher.layers_per_core: .* above 1 \(2, 4\), got 1"),
        ("olmoe", 1, None, r"^student.from_teacher.kind: shared_core is made of llama, .*, got 'olmoe'"),
    ],
)
def test_what_cannot_be_shared_is_refused(architecture, rank, layers, message):
    settings = ShareCore(wrapper_rank=rank, layers_per_core=layers)
    with pytest.raises(UserError, match=message) as caught:
        shared_architecture(settings, make_model(architecture).config)
    assert "\n" not in str(caught.value)
