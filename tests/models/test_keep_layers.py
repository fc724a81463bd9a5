"""A student that keeps some layers of a large model: the same numbers as those layers alone, saved as a small model."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from kdkit.distill.student import make_student
from kdkit.errors import UserError
from kdkit.models.keep_layers import keep_layers, spread_layers
from tests.tiny import make_config, make_data, make_plan, make_run

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
IDS = torch.arange(3, 23)[None]


@pytest.fixture
def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=300, num_hidden_layers=5, **SIZES)).eval()


@pytest.mark.parametrize(
    ("num_layers", "kept", "expected"),
    [(30, 4, [0, 10, 19, 29]), (6, 3, [0, 2, 5]), (5, 5, [0, 1, 2, 3, 4]), (5, 1, [4]), (5, 2, [0, 4])],
)
def test_layers_are_kept_at_even_distances_first_and_last_among_them(num_layers, kept, expected):
    assert spread_layers(num_layers, kept) == expected


def test_more_layers_than_there_are_is_refused_under_the_name_of_the_setting():
    with pytest.raises(UserError, match=r"^student\.layers: expected at most the model's 5 layers, got 6; lower it$"):
        spread_layers(5, 6, "student.layers")


@torch.no_grad()
def test_the_kept_layers_compute_what_they_computed(llama):
    states = llama.model.embed_tokens(IDS)
    rotary = llama.model.rotary_emb(states, torch.arange(IDS.shape[1])[None])
    for number in (0, 2, 4):
        states = llama.model.layers[number](states, position_embeddings=rotary)
    expected = llama.lm_head(llama.model.norm(states))
    keep_layers(llama, [4, 0, 2])  # in the model's order, whatever the setting's
    torch.testing.assert_close(llama(IDS).logits, expected)


@torch.no_grad()
def test_it_is_saved_as_an_ordinary_small_model(llama, tmp_path):
    keep_layers(llama, [0, 3])
    llama.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.num_hidden_layers == 2
    assert torch.equal(loaded(IDS).logits, llama(IDS).logits)
    # with its key-value cache too, in which layers have numbers
    assert torch.equal(loaded.generate(IDS, max_new_tokens=8, do_sample=False)[0, :20], IDS[0])


@torch.no_grad()
def test_layers_of_two_kinds_stay_what_they_were(tmp_path):
    torch.manual_seed(0)
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    config = Gemma3TextConfig(
        vocab_size=300, num_hidden_layers=3, head_dim=8, sliding_window=4, layer_types=kinds, **SIZES
    )
    model = Gemma3ForCausalLM(config).eval()
    keep_layers(model, [0, 2])
    assert model.config.layer_types == ["sliding_attention", "full_attention"]
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits, model(IDS).logits)


@pytest.fixture
def folder(tmp_path, small_pair):
    """A pretrained model of four layers with its tokenizer."""
    torch.manual_seed(0)
    tokenizer = small_pair[0]
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=4, **SIZES)).save_pretrained(
        tmp_path / "model"
    )
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(("layers", "count"), [([0, 3], 2), (3, 3), (None, 4)])
def test_a_student_keeps_layers_of_the_teachers_own_folder(tmp_path, folder, layers, count):
    path = str(folder)
    config = make_config(tmp_path, teacher={"path": path}, student={"path": path, "layers": layers})
    data = make_data(config, tmp_path)
    assert data.same_tokenizer
    student = make_student(config, data)
    assert student.config.num_hidden_layers == count == len(student.model.layers)
    assert make_plan(config, make_run(tmp_path), data).loss.name == "forward_kl"


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([0, 4], r"different layers among 0 to 3, got \[0, 4\]"),
        ([1, 1], r"different layers among 0 to 3, got \[1, 1\]"),
        ([], r"different layers among 0 to 3, got \[\]"),
        (5, "at most the model's 4 layers, got 5"),
    ],
)
def test_layers_that_are_not_there_are_refused_before_a_model_is_loaded(tmp_path, folder, layers, words):
    config = make_config(tmp_path, student={"path": str(folder), "layers": layers})
    data = make_data(config, tmp_path)
    with pytest.raises(UserError, match=rf"^student\.layers: expected {words}"):
        make_plan(config, make_run(tmp_path), data)


def test_layers_of_a_student_built_here_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"student\.layers: expected a pretrained student whose layers are kept"):
        make_config(tmp_path, student={"layers": [0, 1]})
