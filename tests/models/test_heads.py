"""The output head apart from its model: equal to the model's own logits, or refused by name."""

import copy

import pytest
import torch
import transformers

from kdkit.errors import UserError
from kdkit.models.heads import find_head, hidden_of_wrapped, last_hidden_state
from tests.memory import Allocations
from tests.tiny import make_llama

VOCABULARY = 64
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
GPT = {"vocab_size": VOCABULARY, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
ENDS = {"bos_token_id": 0, "eos_token_id": 0}
EXPERTS = {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

ARCHITECTURES = {
    "llama": ("Llama", "LlamaForCausalLM", SHAPE | {"tie_word_embeddings": False}),
    "llama, tied": ("Llama", "LlamaForCausalLM", SHAPE | {"tie_word_embeddings": True}),
    "gemma 2, soft-capped": (
        "Gemma2",
        "Gemma2ForCausalLM",
        SHAPE | {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0},
    ),
    "granite, divided": ("Granite", "GraniteForCausalLM", SHAPE | {"logits_scaling": 4.0}),
    "cohere, multiplied": ("Cohere", "CohereForCausalLM", SHAPE | {"logit_scale": 0.25}),
    "phi, biased": ("Phi", "PhiForCausalLM", SHAPE),
    "gpt 2": ("GPT2", "GPT2LMHeadModel", GPT | ENDS),
    "qwen 3 moe": ("Qwen3Moe", "Qwen3MoeForCausalLM", SHAPE | EXPERTS),
}


def make_model(config: str, model: str, values: dict) -> transformers.PreTrainedModel:
    """Make a small model with random weights, biases included."""
    transformers.set_seed(0)
    made = getattr(transformers, model)(getattr(transformers, f"{config}Config")(**values)).eval()
    bias = getattr(made.get_output_embeddings(), "bias", None)
    if bias is not None:
        torch.nn.init.normal_(bias)
    return made


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request):
    return make_model(*ARCHITECTURES[request.param])


@pytest.fixture
def input_ids():
    return torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))


def test_the_head_of_a_real_architecture_makes_the_models_own_logits(model, input_ids):
    head = find_head(model, VOCABULARY)
    with torch.no_grad():
        expected = model(input_ids=input_ids).logits
        got = head.logits(last_hidden_state(model, input_ids))
    assert expected.std() > 0.1, "logits that are all alike would prove nothing"
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_head_smaller_than_its_matrix_leaves_the_last_rows_out(model, input_ids):
    head = find_head(model, VOCABULARY - 5)
    with torch.no_grad():
        expected = model(input_ids=input_ids).logits[..., :-5]
        assert torch.allclose(head.logits(last_hidden_state(model, input_ids)), expected, rtol=1e-5, atol=1e-5)


def test_a_model_in_training_delivers_its_hidden_states_through_its_own_forward(model, input_ids):
    expected = last_hidden_state(model, input_ids)
    got = hidden_of_wrapped(model, model, input_ids)
    assert torch.equal(got, expected)
    assert got.requires_grad


def test_hidden_states_are_taken_without_making_the_logits(input_ids):
    model = make_llama(5_000)
    with Allocations(*model.parameters()) as allocations:
        hidden_of_wrapped(model, model, input_ids)
    # one position a sequence, where all would be nine
    assert allocations.largest <= input_ids.shape[0] * 5_000


def test_hidden_states_are_taken_through_the_wrapper(input_ids):
    model, calls = make_llama(VOCABULARY), []

    class Wrapper(torch.nn.Module):
        """Stands for DistributedDataParallel."""

        def forward(self, **options):
            calls.append(options)
            return model(**options)

    assert torch.equal(hidden_of_wrapped(Wrapper(), model, input_ids), last_hidden_state(model, input_ids))
    assert len(calls) == 1


def test_logits_are_fp32_whatever_the_hidden_states_are(input_ids):
    model = make_model(*ARCHITECTURES["llama"])
    hidden = last_hidden_state(model, input_ids).detach()
    head = find_head(model, VOCABULARY)
    for dtype in (torch.float16, torch.bfloat16):
        got = head.logits(hidden.to(dtype))
        assert got.dtype == torch.float32
        assert torch.allclose(got, head.logits(hidden), atol=0.1)


def test_a_model_in_bf16_has_a_head(input_ids):
    model = make_model(*ARCHITECTURES["gemma 2, soft-capped"]).to(torch.bfloat16)
    with torch.no_grad():
        expected = model(input_ids=input_ids).logits.float()
        got = find_head(model, VOCABULARY).logits(last_hidden_state(model, input_ids))
    assert torch.allclose(got, expected, atol=0.05)


def test_a_mixture_whose_forward_trainer_wraps_in_autocast_has_a_head():
    model = make_model(*ARCHITECTURES["qwen 3 moe"])
    for name, parameter in model.named_parameters():
        if name.endswith("gate.weight"):  # experts so close that in 16 bits tokens go to others than in 32
            parameter.data = 1 + 1e-3 * parameter.data
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
    assert find_head(model, VOCABULARY).vocab_size == VOCABULARY


@pytest.mark.parametrize("is_training", [True, False])
def test_a_model_is_left_in_its_mode(is_training):
    model = make_llama(VOCABULARY).train(is_training)
    find_head(model, VOCABULARY)
    assert model.training is is_training


def test_an_architecture_that_does_more_with_its_logits_is_refused_by_name():
    # its soft cap has another name in its configuration
    values = {name: value for name, value in SHAPE.items() if name not in ("num_key_value_heads", "initializer_range")}
    extra = {"num_hidden_layers": 3, "lru_width": 16, "logits_soft_cap": 2.0, "w_init_variance_scale": 1.0}
    model = make_model("RecurrentGemma", "RecurrentGemmaForCausalLM", values | extra)
    with pytest.raises(UserError, match="RecurrentGemmaForCausalLM: expected logits that are a product") as caught:
        find_head(model, VOCABULARY)
    assert "\n" not in str(caught.value)


def test_a_body_that_its_model_passes_by_is_refused_by_name():
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_hidden_layers": 1}
    config = transformers.OPTConfig(vocab_size=VOCABULARY, num_attention_heads=2, pad_token_id=1, **sizes)
    with pytest.raises(UserError, match=r"OPTForCausalLM: expected a head that reads .* is not supported"):
        find_head(transformers.OPTForCausalLM(config), VOCABULARY)


class ShiftedLlama(transformers.LlamaForCausalLM):
    """Adds something to its logits that no setting tells of."""

    def forward(self, *arguments, **options):
        """Favour the first token."""
        outputs = super().forward(*arguments, **options)
        outputs.logits[..., 0] += 1.0
        return outputs


def test_a_subclass_that_changes_its_logits_is_refused_by_name():
    plain = make_model(*ARCHITECTURES["llama"])
    changed = ShiftedLlama(copy.deepcopy(plain.config))
    changed.load_state_dict(plain.state_dict())
    find_head(plain, VOCABULARY)
    with pytest.raises(UserError, match=r"ShiftedLlama: .*differ by 1"):
        find_head(changed, VOCABULARY)
