"""Learning rates by parameter name: the first rule counts, 0 freezes, and a rule that decides nothing is refused."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kdkit.config.language import config_from_values
from kdkit.config.training import ParameterRule
from kdkit.data.batches import WindowCollator
from kdkit.errors import UserError
from kdkit.training.arguments import make_training_arguments
from kdkit.training.parameters import NO_RULE, format_table, group_parameters
from kdkit.training.trainer import LanguageModelTrainer
from tests.tiny import CPU, make_config, make_data, make_llama


def rules(**multipliers: float) -> list[ParameterRule]:
    return [ParameterRule(pattern=pattern, lr_multiplier=value) for pattern, value in multipliers.items()]


def rule(pattern: str, multiplier: float) -> ParameterRule:
    return ParameterRule(pattern=pattern, lr_multiplier=multiplier)


def group(model: torch.nn.Module, *chosen: ParameterRule) -> tuple[dict[str, tuple[float, float]], list[dict]]:
    """Return learning rate and decay of every parameter that learns, by name, and the table."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {name for name in names.values() if "norm" not in name and not name.endswith("bias")}
    groups, table = group_parameters(model.named_parameters(), decayed, list(chosen), 0.01, 0.1)
    got = [(names[id(p)], (g["lr"], g["weight_decay"])) for g in groups for p in g["params"]]
    assert len(dict(got)) == len(got)  # each parameter once
    return dict(got), table


@pytest.fixture
def llama() -> LlamaForCausalLM:
    return make_llama(50)


@pytest.fixture
def trainer_of(tmp_path):
    """Return a function that makes a trainer of a model with rules, and its optimizer."""
    data = make_data(config := make_config(tmp_path), tmp_path)

    def make(model: torch.nn.Module, *chosen: ParameterRule) -> LanguageModelTrainer:
        arguments = make_training_arguments(config.train, CPU, tmp_path / "out", max_steps=2, seed=0)
        size = model.get_input_embeddings().num_embeddings
        trainer = LanguageModelTrainer(model, arguments, WindowCollator(data.train), size, list(chosen))
        trainer.create_optimizer()
        return trainer

    return make


def test_without_rules_all_parameters_have_the_learning_rate(llama):
    got, table = group(llama)
    assert set(got) == {name for name, _ in llama.named_parameters()}
    assert {lr for lr, _ in got.values()} == {0.01}
    assert {row["pattern"] for row in table} == {NO_RULE}


def test_the_first_rule_that_matches_counts(llama):
    got, _ = group(llama, rule(r"self_attn\.q_proj", 0.5), rule("self_attn", 3.0), rule("proj", 2.0))
    for name, (lr, _) in got.items():
        factor = 0.5 if "q_proj" in name else 3.0 if "self_attn" in name else 2.0 if "proj" in name else 1.0
        assert lr == pytest.approx(0.01 * factor), name


def test_the_order_of_the_rules_decides(llama):
    first, _ = group(llama, rule("q_proj", 0.5), rule("self_attn", 3.0))
    second, _ = group(llama, rule("self_attn.[kvo]_proj", 3.0), rule("q_proj", 0.5))
    assert first == second


def test_a_pattern_is_searched_anywhere_in_the_name_and_may_be_anchored(llama):
    got, _ = group(llama, rule("^lm_head", 5.0), rule(r"embed.*weight$", 7.0))
    assert [name for name, (lr, _) in got.items() if lr == pytest.approx(0.05)] == ["lm_head.weight"]
    assert [name for name, (lr, _) in got.items() if lr == pytest.approx(0.07)] == ["model.embed_tokens.weight"]


def test_a_multiplier_of_zero_freezes(llama):
    got, _ = group(llama, rule("embed_tokens", 0.0))
    assert "model.embed_tokens.weight" not in got
    frozen = [name for name, parameter in llama.named_parameters() if not parameter.requires_grad]
    assert frozen == ["model.embed_tokens.weight"]


def test_a_later_grouping_lets_frozen_parameters_learn_again(llama):
    group(llama, rule("layers|embed", 0.0))
    got, _ = group(llama)
    assert len(got) == len(list(llama.parameters()))
    assert all(parameter.requires_grad for parameter in llama.parameters())


def test_undecayed_parameters_have_no_decay_whatever_their_rule(llama):
    got, _ = group(llama, rule("layernorm", 2.0), rule("proj", 0.5))
    for name, (_, decay) in got.items():
        assert decay == (0.0 if "norm" in name else 0.1), name


def test_biases_and_norms_have_no_decay_in_the_trainers_optimizer(trainer_of):
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        attention_bias=True,
        mlp_bias=True,
    )
    trainer = trainer_of(LlamaForCausalLM(config), rule("q_proj", 0.5))
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    decay_of = {names[id(p)]: g["weight_decay"] for g in trainer.optimizer.param_groups for p in g["params"]}
    assert decay_of.keys() == set(names.values())
    assert sum("bias" in name for name in decay_of) == 7 and sum("norm" in name for name in decay_of) == 3
    for name, decay in decay_of.items():
        assert decay == (0.0 if "norm" in name or name.endswith("bias") else 0.01), name


def test_the_table_has_a_row_per_group_with_all_that_was_decided(llama):
    _, table = group(llama, rule("lm_head", 0.5), rule("embed_tokens|norm", 0.0))
    sizes = {name: parameter.numel() for name, parameter in llama.named_parameters()}
    norms = {name: size for name, size in sizes.items() if "norm" in name}
    others = {n: s for n, s in sizes.items() if n not in norms and "lm_head" not in n and "embed" not in n}
    common = {"pattern": "embed_tokens|norm", "lr_multiplier": 0.0, "learning_rate": 0.0}
    assert table == [
        {
            "pattern": "lm_head",
            "lr_multiplier": 0.5,
            "learning_rate": 0.005,
            "weight_decay": 0.1,
            "tensors": 1,
            "parameters": 800,
        },
        {**common, "weight_decay": 0.1, "tensors": 1, "parameters": 800},
        {**common, "weight_decay": 0.0, "tensors": 3, "parameters": sum(norms.values())},
        {
            "pattern": NO_RULE,
            "lr_multiplier": 1.0,
            "learning_rate": 0.01,
            "weight_decay": 0.1,
            "tensors": len(others),
            "parameters": sum(others.values()),
        },
    ]
    assert sum(row["parameters"] for row in table) == sum(sizes.values())


def test_the_printed_table_says_what_is_frozen_and_what_learns_how_fast(llama):
    _, table = group(llama, rule("lm_head", 0.5), rule("embed_tokens", 0.0))
    lines = format_table(table).splitlines()
    assert len(lines) == len(table)
    assert "lm_head" in lines[0] and "x 0.5" in lines[0] and "lr 0.005" in lines[0] and "800 parameters" in lines[0]
    assert "embed_tokens" in lines[1] and "frozen" in lines[1] and "lr" not in lines[1]
    assert NO_RULE in lines[2]


def test_a_pattern_that_matches_nothing_is_refused_with_names_there_are(llama):
    with pytest.raises(UserError, match="a pattern that matches a parameter, got 'embbed'") as caught:
        group(llama, rule("lm_head", 0.5), rule("embbed", 0.0))
    assert "model.embed_tokens.weight" in str(caught.value) and "\n" not in str(caught.value)


def test_a_pattern_that_earlier_ones_shadow_is_refused_with_those(llama):
    with pytest.raises(UserError, match="'q_proj', all of whose parameters match an earlier one") as caught:
        group(llama, rule("self_attn", 0.5), rule("q_proj", 0.0))
    assert "'self_attn'" in str(caught.value) and "put it first" in str(caught.value)


def test_a_pattern_that_two_earlier_ones_shadow_together_is_refused(llama):
    with pytest.raises(UserError, match=r"'q_proj|k_proj', all of whose"):
        group(llama, rule("q_proj", 0.5), rule("k_proj", 0.5), rule("q_proj|k_proj", 0.0))


@pytest.mark.parametrize("chosen", [{".": 0.0}, {"lm_head": 0.0, "model": 0.0}])
def test_freezing_everything_is_refused(llama, chosen):
    with pytest.raises(UserError, match="lets something learn, got multiplier 0 for all 12 parameters"):
        group(llama, *rules(**chosen))


def test_a_refused_grouping_through_the_trainer_is_the_same_message(trainer_of, llama):
    with pytest.raises(UserError, match="'nothing_like_this'"):
        trainer_of(llama, rule("nothing_like_this", 2.0))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"pattern": "a(", "lr_multiplier": 1.0}, "expected a regular expression, got 'a('"),
        ({"pattern": "a", "lr_multiplier": -1.0}, "greater than or equal to 0, got -1.0"),
        ({"pattern": "a", "lr_multiplier": float("nan")}, "finite"),
        ({"pattern": "a"}, "lr_multiplier"),
        ({"pattern": "a", "lr_multiplier": 1.0, "decay": 0.0}, "known key"),
    ],
)
def test_a_rule_that_is_no_rule_is_refused_when_the_configuration_is_read(value, words):
    with pytest.raises(UserError) as caught:
        config_from_values({"train": {"parameter_lr_multipliers": [value]}})
    assert "parameter_lr_multipliers" in str(caught.value) and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tied_weights_are_one_parameter(trainer_of):
    config = LlamaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    config.tie_word_embeddings = True
    model = LlamaForCausalLM(config)
    trainer = trainer_of(model, rule("embed_tokens", 0.5))
    in_optimizer = [p for g in trainer.optimizer.param_groups for p in g["params"]]
    assert sum(p is model.lm_head.weight for p in in_optimizer) == 1
    assert len(in_optimizer) == len({id(p) for p in in_optimizer})
    assert sum(row["tensors"] for row in trainer.parameter_table) == len(list(model.parameters()))
    with pytest.raises(UserError, match="'lm_head', which matches none"):
        trainer_of(model, rule("lm_head", 0.5))


def test_an_optimizer_step_moves_weights_in_proportion_to_their_multiplier(trainer_of, llama):
    trainer = trainer_of(llama, rule("lm_head", 0.5), rule("embed", 0.0))
    for g in trainer.optimizer.param_groups:
        g["weight_decay"] = 0.0
    before = {name: parameter.detach().clone() for name, parameter in llama.named_parameters()}
    for parameter in llama.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    trainer.optimizer.step()
    moved = {
        name: (parameter.detach() - before[name]).abs().mean().item() for name, parameter in llama.named_parameters()
    }
    lr = trainer.args.learning_rate
    for name, distance in moved.items():
        factor = 0.5 if "lm_head" in name else 0.0 if "embed" in name else 1.0
        assert distance == pytest.approx(lr * factor, rel=1e-3), name
