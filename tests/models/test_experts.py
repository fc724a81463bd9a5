"""Experts under control: the model's own routing is reproduced, any other is obeyed, and gradients reach gates only."""

import copy

import pytest
import torch
import transformers
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from kdkit.errors import UserError
from kdkit.models.experts import Experts, all_experts, augmented, check_trainable, given, top_k_choice
from kdkit.models.moe_blocks import run_all_experts
from tests.tiny import make_llama

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
NARROW = {"moe_intermediate_size": 12, "num_experts": 5}
ARCHITECTURES = {
    "qwen3_moe": ("Qwen3Moe", SHAPE | NARROW | {"head_dim": 8, "norm_topk_prob": True}),
    "qwen3_moe, not normalised": ("Qwen3Moe", SHAPE | NARROW | {"head_dim": 8, "norm_topk_prob": False}),
    "qwen3_moe, dense below": ("Qwen3Moe", SHAPE | NARROW | {"head_dim": 8, "mlp_only_layers": [0]}),
    "qwen2_moe, shared expert": ("Qwen2Moe", SHAPE | NARROW | {"shared_expert_intermediate_size": 12}),
    "mixtral": ("Mixtral", SHAPE | {"num_local_experts": 5, "router_jitter_noise": 0.5}),
    "olmoe": ("Olmoe", SHAPE | {"num_experts": 5}),
}
INPUT_IDS = torch.randint(64, (2, 7), generator=torch.Generator().manual_seed(0))


def make_model(architecture="qwen3_moe", **changes):
    """Make a small model with random weights."""
    name, values = ARCHITECTURES[architecture]
    transformers.set_seed(0)
    config = getattr(transformers, f"{name}Config")(**values | changes)
    return getattr(transformers, f"{name}ForCausalLM")(config).eval().requires_grad_(False)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def experts(request):
    return Experts(make_model(request.param))


@pytest.fixture
def qwen():
    return Experts(make_model())


def logits_of(model):
    return model(input_ids=INPUT_IDS, use_cache=False).logits


def routed_logits(experts, route):
    with experts.routed(route):
        return logits_of(experts.model)


def densely(choice, num_experts):
    """Write a choice as weights for all experts."""
    return given(torch.zeros(len(choice.weights), num_experts).scatter(-1, choice.experts, choice.weights))


def test_stock_routing_is_reproduced(experts):
    expected = logits_of(experts.model)
    assert expected.std() > 0.1, "logits that are all alike would prove nothing"
    got = routed_logits(experts, lambda layer, _, logits: experts.stock(layer, logits))
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_stock_weights_are_reproduced_by_the_soft_forward(experts):
    got = routed_logits(experts, lambda layer, _, logits: densely(experts.stock(layer, logits), 5))
    assert torch.allclose(got, logits_of(experts.model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("k", [1, 3, 5])
def test_forced_top_k_equals_a_model_configured_with_it(architecture, k):
    experts, other = Experts(make_model(architecture)), make_model(architecture, num_experts_per_tok=k)
    got = routed_logits(experts, lambda _, __, logits: top_k_choice(logits, k, normalised=experts.normalised))
    assert torch.allclose(got, logits_of(other), rtol=1e-5, atol=1e-5)
    assert (got - logits_of(experts.model)).abs().max() > 1e-2


def by_loop(module, hidden, weights):
    """Add up the experts of one layer token by token, expert by expert."""
    total = torch.zeros_like(hidden)
    for token, row in enumerate(hidden):
        for expert in range(weights.shape[1]):
            gate, up = (module.gate_up_proj[expert] @ row).chunk(2)
            total[token] += weights[token, expert] * (module.down_proj[expert] @ (F.silu(gate) * up))
    return total


def moe_modules(experts):
    """Return the experts module of every MoE layer."""
    return [module for name, module in experts.model.named_modules() if name.endswith(".experts")]


def test_all_experts_equal_a_loop_over_tokens_and_experts(experts):
    inputs, outputs = [], []
    modules, seen_weights = moe_modules(experts), []

    def route(layer, hidden, logits):
        inputs.append(hidden)
        seen_weights.append(torch.softmax(logits / 0.7, dim=-1))
        return all_experts(logits, temperature=0.7)

    handles = [module.register_forward_hook(lambda _, __, output: outputs.append(output)) for module in modules]
    routed_logits(experts, route)
    for handle in handles:
        handle.remove()
    for module, hidden, weights, output in zip(modules, inputs, seen_weights, outputs, strict=True):
        assert output.std() > 0.01
        assert torch.allclose(output, by_loop(module, hidden, weights), rtol=1e-5, atol=1e-5)


def test_given_weights_are_obeyed_per_token_and_layer(qwen):
    drawn = torch.rand(2, INPUT_IDS.numel(), 5, generator=torch.Generator().manual_seed(1))
    outputs, inputs, modules = [], [], moe_modules(qwen)
    handles = [module.register_forward_hook(lambda _, __, output: outputs.append(output)) for module in modules]

    def route(layer, hidden, _):
        inputs.append(hidden)
        return given(drawn[layer])

    routed_logits(qwen, route)
    for handle in handles:
        handle.remove()
    for layer in (0, 1):
        assert torch.allclose(outputs[layer], by_loop(modules[layer], inputs[layer], drawn[layer]), atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_every_implementation_of_the_experts_is_routed_alike(implementation, qwen):
    def chosen(_, __, logits):
        return top_k_choice(logits, 3, temperature=2.0)

    expected = routed_logits(qwen, lambda *arguments: densely(chosen(*arguments), 5))
    qwen.model.set_experts_implementation(implementation)
    assert torch.allclose(routed_logits(qwen, chosen), expected, rtol=1e-5, atol=1e-5)


def test_gate_logits_are_recorded_and_emptied_by_the_next_forward(experts):
    hidden = []
    with experts.watched() as seen:
        expected = logits_of(experts.model)
        logits_of(experts.model)
    assert [logits.shape for logits in seen] == [(INPUT_IDS.numel(), 5)] * len(experts.layers)
    with experts.routed(lambda layer, inputs, logits: hidden.append(inputs) or experts.stock(layer, logits)) as again:
        assert torch.allclose(logits_of(experts.model), expected, atol=1e-5)
    weights = experts.gate_weights()
    for layer, logits in enumerate(again):
        assert logits.dtype == torch.float32
        assert torch.allclose(logits, seen[layer], atol=1e-5)
        assert torch.allclose(logits, hidden[layer] @ weights[layer].T, atol=1e-5)


def test_the_layers_that_are_mixtures_are_listed():
    assert Experts(make_model("qwen3_moe, dense below")).layers == [1]
    assert Experts(make_model("olmoe")).layers == [0, 1]


def test_gate_weights_are_a_copy(qwen):
    before = logits_of(qwen.model)
    qwen.gate_weights().zero_()
    assert torch.equal(logits_of(qwen.model), before)


def gate_gradient(experts, choose, dtype=torch.float32):
    """Return the loss of a routing by a copy of the gates, and the copy with its gradient."""
    gates = experts.gate_weights().to(dtype).requires_grad_()
    loss = routed_logits(experts, lambda layer, hidden, _: choose(hidden @ gates[layer].T)).square().mean()
    loss.backward()
    return loss, gates


@pytest.mark.parametrize("choose", [all_experts, lambda logits: top_k_choice(logits, 2)], ids=["all", "top 2"])
def test_gates_get_gradient_and_experts_none(choose):
    model = make_model().requires_grad_(True)
    experts = Experts(model)
    _, gates = gate_gradient(experts, choose)
    assert all(layer.abs().sum() > 0 for layer in gates.grad)
    for module in moe_modules(experts):
        assert [parameter.grad for parameter in module.parameters()] == [None, None]
    assert model.get_input_embeddings().weight.grad is not None, "gradient flows through to the layers below"


def test_the_models_own_gates_can_be_trained(qwen):
    gate = qwen.model.model.layers[0].mlp.gate.weight.requires_grad_()
    routed_logits(qwen, lambda _, __, logits: all_experts(logits)).square().mean().backward()
    assert gate.grad.abs().sum() > 0


@pytest.mark.parametrize("choose", [all_experts, lambda logits: top_k_choice(logits, 2)], ids=["all", "top 2"])
def test_gradient_of_the_gates_equals_finite_differences(choose):
    experts = Experts(make_model())
    experts.model.double().set_experts_implementation("eager")
    _, gates = gate_gradient(experts, choose, torch.float64)

    def loss_at(values):
        with torch.no_grad():
            got = routed_logits(experts, lambda layer, hidden, _: choose(hidden @ values[layer].T))
        return got.square().mean()

    # transformers' norms compute in fp32, so steps have to be long, and slopes are exact to about 1e-5
    random = torch.randn(gates.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    below, above = (F.one_hot(torch.tensor(layer), 2)[:, None, None] * gates.grad for layer in (0, 1))
    for direction in (below / below.norm(), above / above.norm(), random / random.norm()):
        step = 3e-3 * direction
        slope = (loss_at(gates.detach() + step) - loss_at(gates.detach() - step)) / 6e-3
        assert slope.item() == pytest.approx((gates.grad * direction).sum().item(), rel=1e-3, abs=2e-5)


def test_the_top_1_trap_is_real(qwen):
    _, gates = gate_gradient(qwen, lambda logits: top_k_choice(logits, 1))
    assert torch.count_nonzero(gates.grad) == 0
    _, gates = gate_gradient(qwen, lambda logits: top_k_choice(logits, 1, normalised=False))
    assert torch.count_nonzero(gates.grad) > 0


def test_the_top_1_trap_is_explained():
    with pytest.raises(UserError, match=r"router.training_top_k: .*the constant 1.*exactly zero.*null") as caught:
        check_trainable(1, True, "router.training_top_k")
    assert "\n" not in str(caught.value)
    check_trainable(1, False, "router.training_top_k")
    check_trainable(2, True, "router.training_top_k")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_routes_with_gradients(dtype, qwen):
    with torch.autocast("cpu", dtype=dtype):
        _, gates = gate_gradient(qwen, all_experts)
    plain = gate_gradient(qwen, all_experts)[1].grad
    assert torch.nn.functional.cosine_similarity(gates.grad.flatten(), plain.flatten(), dim=0) > 0.99


def test_a_model_in_bf16_is_routed():
    # the grouped product wants rows of 16 bytes
    experts = Experts(make_model(moe_intermediate_size=16).to(torch.bfloat16))
    expected = logits_of(experts.model)
    got = routed_logits(experts, lambda layer, _, logits: experts.stock(layer, logits))
    assert torch.equal(got, expected)
    assert routed_logits(experts, lambda _, __, logits: all_experts(logits)).dtype == torch.bfloat16


def test_hooks_are_gone_after_the_context(experts):
    expected = logits_of(experts.model)
    with experts.routed(lambda _, __, logits: all_experts(logits)) as seen:
        assert not torch.allclose(logits_of(experts.model), expected, atol=1e-2)
    with pytest.raises(ZeroDivisionError):
        routed_logits(experts, lambda *_: 1 / 0)
    count = len(seen)
    assert torch.equal(logits_of(experts.model), expected)
    assert len(seen) == count == len(experts.layers)
    for module in experts.model.modules():
        assert "forward" not in vars(module)
        assert not module._forward_hooks


def test_a_forward_of_ones_own_is_put_back(qwen):
    module = moe_modules(qwen)[0]
    module.forward = own = module.forward
    routed_logits(qwen, lambda _, __, logits: all_experts(logits))
    assert vars(module)["forward"] is own


def test_a_model_is_left_in_its_mode_and_no_random_number_is_drawn():
    model = make_model("mixtral").train()
    before = torch.get_rng_state()
    Experts(model)
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_the_top_k_against_a_hand_worked_example():
    logits = torch.tensor([[0.0, 4.0, 1.0, 2.0]]).log1p()  # 1 + these are 1, 5, 2, 3
    cases = {(1.0, True): (5 / 8, 3 / 8), (1.0, False): (5 / 11, 3 / 11), (0.5, True): (25 / 34, 9 / 34)}
    for (temperature, normalised), expected in (cases | {(0.5, False): (25 / 39, 9 / 39)}).items():
        choice = top_k_choice(logits, 2, temperature=temperature, normalised=normalised)
        assert choice.experts.tolist() == [[1, 3]]
        assert choice.weights[0].tolist() == pytest.approx(expected)


def test_no_augmentation_is_the_top_k():
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    got, expected = augmented(logits, 5, 0.0), top_k_choice(logits, 5)
    assert torch.equal(got.experts, expected.experts)
    assert torch.equal(got.weights, expected.weights)


def test_augmentation_draws_by_softmax_without_replacement():
    logits = torch.tensor([1.5, 0.0, 0.7, -1.0])
    choice = augmented(logits.expand(200_000, 4), 2, 1.0, torch.Generator().manual_seed(0))
    assert (choice.experts[:, 0] != choice.experts[:, 1]).all()
    p = torch.softmax(logits, dim=-1)
    # expert j is in a draw of two: first, or second after any other first
    expected = torch.stack([p[j] + sum(p[i] * p[j] / (1 - p[i]) for i in range(4) if i != j) for j in range(4)])
    frequency = torch.bincount(choice.experts.flatten(), minlength=4) / 200_000
    assert torch.allclose(frequency, expected, atol=5e-3)
    assert torch.allclose(choice.weights, torch.softmax(logits[choice.experts], dim=-1))


def test_the_rate_is_the_share_of_tokens_that_draw():
    logits = torch.tensor([3.0, 0.0, 0.0, 0.0, 0.0]).expand(100_000, 5)
    choice = augmented(logits, 1, 0.05, torch.Generator().manual_seed(0))
    left = (choice.experts != 0).float().mean().item()
    assert left == pytest.approx(0.05 * (1 - torch.softmax(logits[0], dim=-1)[0].item()), abs=2e-3)


def test_equal_seeds_augment_alike():
    logits = torch.randn(100, 6)
    one, two, other = (augmented(logits, 3, 0.5, torch.Generator().manual_seed(seed)).experts for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


class CountedOperations(TorchDispatchMode):
    """Counts the operations that torch runs."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += 1
        return function(*arguments, **options or {})


@pytest.mark.parametrize("is_training", [True, False])
def test_the_soft_forward_loops_over_neither_tokens_nor_experts(is_training):
    counts = []
    for num_experts, tokens in ((2, 3), (9, 300)):
        module = moe_modules(Experts(make_model(num_experts=num_experts)))[0]
        with CountedOperations() as counted, torch.set_grad_enabled(is_training):
            run_all_experts(module, torch.randn(tokens, 16), torch.rand(tokens, num_experts))
        counts.append(counted.count)
    assert counts[0] == counts[1]


def test_a_dense_model_is_told_apart():
    with pytest.raises(
        UserError, match=r"^teacher.path: expected a mixture of experts, got LlamaForCausalLM"
    ) as caught:
        Experts(make_llama(64))
    assert "\n" not in str(caught.value)


def refused(model):
    """Return the message with which a model is refused."""
    with pytest.raises(UserError) as caught:
        Experts(model, "teacher.others")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_architecture_lists_the_supported_ones():
    values = SHAPE | {"num_local_experts": 4, "head_dim": 8, "layer_types": ["full_attention"] * 2}
    message = refused(transformers.GptOssForCausalLM(transformers.GptOssConfig(**values, rope_parameters=None)))
    assert message.startswith("teacher.others: ")
    for name in ("GptOssForCausalLM", "Mixtral", "OLMoE", "Qwen2-MoE", "Qwen3-MoE"):
        assert name in message


def test_a_gate_that_is_no_softmax_is_refused():
    values = SHAPE | NARROW | {"head_dim": 8, "expert_selection_fn": "sigmoid", "norm_topk_prob": False}
    message = refused(transformers.Cohere2MoeForCausalLM(transformers.Cohere2MoeConfig(**values)))
    assert "Cohere2MoeForCausalLM" in message and "differ" in message


def test_experts_that_compute_something_else_are_refused():
    model = make_model()
    module = moe_modules(Experts(model))[1]
    plain = copy.deepcopy(module)
    module.forward = lambda *arguments: 1.01 * plain(*arguments)
    assert "differ from these by 0.00" in refused(model)
