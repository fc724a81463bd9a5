"""Experts on a text: who is chosen, how surely, and what each would say alone."""

import copy
import math

import pytest
import torch

from kdkit.alignment.tokenizers import start_token_id, token_bytes
from kdkit.errors import UserError
from kdkit.models.experts import Experts
from kdkit.teachers.expert_probe import MAX_TOKENS, ExpertExplorer, probe_experts
from kdkit.teachers.prepare import Teacher
from tests.tiny import make_config, make_data, make_llama, make_run, make_session, make_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "the quick brown fox jumps over a lazy dog"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A configuration, its data, and a folder."""
    folder = tmp_path_factory.mktemp("experts")
    config = make_config(folder)
    return config, make_data(config, folder), folder


@pytest.fixture(scope="module")
def explorer(prepared):
    data = prepared[1]
    return ExpertExplorer(Experts(make_teacher(data).model), data.teacher_tokenizer)


@pytest.fixture(scope="module")
def ids(explorer):
    """The tokens of the text after the start token, 1 s."""
    tokens = explorer.tokenizer(TEXT, add_special_tokens=False).input_ids
    return torch.tensor([[start_token_id(explorer.tokenizer), *tokens]])


def next_tokens(model, input_ids):
    """Return the five most likely next tokens and their probabilities."""
    with torch.no_grad():
        best = torch.softmax(model(input_ids=input_ids).logits[0, -1], dim=-1).topk(5)
    return best.indices.tolist(), best.values.tolist()


def name_of(tokenizer, token):
    """Return a token's text, or its bytes in hexadecimal where it ends inside a character."""
    text = tokenizer.decode([token])
    return text if "\ufffd" not in text else "".join(f"\\x{byte:02x}" for byte in token_bytes(tokenizer)[token])


def test_each_token_shows_the_experts_that_the_model_sends_it_to(explorer, ids):
    shown = explorer.explore(TEXT)
    model, sent = explorer.model, []
    handles = [
        layer.mlp.experts.register_forward_pre_hook(lambda _, inputs: sent.append(inputs[1]))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        logits = model(input_ids=ids, output_router_logits=True).router_logits
    for handle in handles:
        handle.remove()
    assert "".join(shown["tokens"]) == TEXT
    for layer in range(2):
        assert shown["experts"][layer] == sent[layer][1:].tolist()
        shares = logits[layer][1:].double().softmax(dim=-1).tolist()
        entropies = [-sum(p * math.log2(p) for p in token) for token in shares]
        assert shown["entropy"][layer] == pytest.approx(entropies, abs=1e-4)


def test_the_model_itself_predicts_as_it_does_without_us(explorer, ids):
    shown = explorer.explore(TEXT, 3)
    tokens, probabilities = next_tokens(explorer.model, ids[:, :5])
    own = shown["predictions"][0]
    assert own["expert"] is None and shown["position"] == 3
    assert own["tokens"] == [name_of(explorer.tokenizer, token) for token in tokens]
    assert own["probabilities"] == pytest.approx(probabilities, rel=1e-4)


def test_an_expert_alone_predicts_as_a_model_whose_experts_are_all_this_one(explorer, ids):
    shown = explorer.explore(TEXT, 3)
    assert [entry["expert"] for entry in shown["predictions"]] == [None, 0, 1, 2, 3]
    for entry in shown["predictions"][1:]:
        clone = copy.deepcopy(explorer.model)
        for layer in clone.model.layers:
            layer.mlp.gate.norm_topk_prob = True  # the weights sum to 1
            for weight in layer.mlp.experts.parameters():
                weight.data.copy_(weight.data[entry["expert"]].expand_as(weight))
        tokens, probabilities = next_tokens(clone, ids[:, :5])
        assert entry["tokens"] == [name_of(explorer.tokenizer, token) for token in tokens]
        assert entry["probabilities"] == pytest.approx(probabilities, rel=1e-3)
    assert len({tuple(entry["probabilities"]) for entry in shown["predictions"]}) == 5


@pytest.mark.parametrize(("asked", "got"), [(None, MAX_TOKENS // 2), (0, 0), (10_000, MAX_TOKENS - 1)])
def test_a_long_text_is_cut_and_a_position_kept_inside(explorer, asked, got):
    shown = explorer.explore(TEXT * 9, asked)
    assert shown["position"] == got
    assert len(shown["tokens"]) == len(shown["entropy"][0]) == MAX_TOKENS


def test_of_many_experts_those_are_asked_that_the_gates_like_best_at_the_token(explorer, monkeypatch):
    monkeypatch.setattr("kdkit.teachers.expert_probe.MAX_CANDIDATES", 2)
    with explorer.experts.watched() as seen:
        explorer.explore(TEXT, 0)
        explorer.model(input_ids=torch.tensor([[start_token_id(explorer.tokenizer), *explorer.tokenizer(TEXT[:3]).input_ids]]))  # fmt: skip  # noqa: E501
    liked = sum(layer.softmax(dim=-1) for layer in seen)[1].topk(2).indices
    assert [entry["expert"] for entry in explorer.explore(TEXT, 0)["predictions"]] == [None, *sorted(liked.tolist())]


def test_an_empty_text_is_refused(explorer):
    with pytest.raises(UserError, match="expected at least one token, got ''"):
        explorer.explore("")


def test_the_file_holds_the_first_held_out_text(prepared):
    config, data, folder = prepared
    run = make_run(folder, "probe")
    explorer = probe_experts(make_session(config, run), data, make_teacher(data))
    facts = run.read_json("teacher/experts.json")
    assert (facts["layers"], facts["num_experts"], facts["top_k"]) == ([0, 1], 4, 2)
    assert facts["texts"][0] in data.manifest["openings"][0] and facts["shown"] == explorer.explore(facts["texts"][0])


def test_a_dense_teacher_has_no_experts_to_show_and_is_no_error(prepared):
    config, data, folder = prepared
    run = make_run(folder, "dense")
    assert probe_experts(make_session(config, run), data, Teacher(make_llama(64), "dense", False)) is None
    assert run.read_json("teacher/experts.json") == {"missing": "This teacher is dense: it has no experts."}


def test_experts_of_another_construction_are_named_and_are_no_error(prepared):
    config, data, folder = prepared
    run, teacher = make_run(folder, "other"), make_teacher(data)
    teacher.model.model.layers[0].mlp.gate.register_buffer("e_score_correction_bias", torch.zeros(4))
    assert probe_experts(make_session(config, run), data, teacher) is None
    missing = run.read_json("teacher/experts.json")["missing"]
    assert "cannot be looked into" in missing and "model.layers.0.mlp" in missing
