"""Text is drawn from softmax(logits / temperature) over the tokenizer's tokens, whatever lies in a model's folder."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from kdkit.models.continuations import continue_prompts
from kdkit.models.loading import load_causal_lm
from kdkit.models.sampling import sample_text
from tests.tiny import make_config, make_data, make_llama

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, END = 70, 1  # more than the 50 that transformers keeps by default
FOLDERS = {
    "repetition_penalty": 1.7,
    "no_repeat_ngram_size": 1,
    "min_p": 0.2,
    "top_k": 3,
    "top_p": 0.3,
    "top_h": 0.3,
    "typical_p": 0.3,
    "epsilon_cutoff": 0.05,
    "eta_cutoff": 0.2,
    "suppress_tokens": list(range(2, 40)),
    "begin_suppress_tokens": list(range(2, 60)),
    "bad_words_ids": [[n] for n in range(2, 40)],
    "sequence_bias": [[[5], 9.0]],
    "forced_bos_token_id": 7,
    "forced_eos_token_id": 7,
    "exponential_decay_length_penalty": [1, 3.0],
    "guidance_scale": 3.0,
    "min_length": 30,
    "min_new_tokens": 5,
    "num_beams": 3,
    "do_sample": False,
    "temperature": 0.2,
    "max_new_tokens": 2,
    "max_length": 5,
    "eos_token_id": list(range(2, 60)),
    "stop_strings": ["a"],
    "prompt_lookup_num_tokens": 3,
    "watermarking_config": {"bias": 9.0},
    "return_dict_in_generate": True,
    "use_cache": False,
}


def draw(model, prompts, new=6, temperature=1.0, size=SIZE, seed=0):
    torch.manual_seed(seed)
    options = {"max_new_tokens": new, "temperature": temperature, "vocab_size": size, "end_id": END}
    return sample_text(model, prompts, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_llama(SIZE).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_drawn_frequencies_are_the_softmax_of_the_models_logits(temperature):
    model = make_llama(SIZE).eval()
    prompt = torch.tensor([[0, 5, 9]])
    drawn = draw(model, prompt.repeat(20_000, 1), new=1, temperature=temperature)[:, -1]
    expected = torch.softmax(model(input_ids=prompt).logits[0, -1].double() / temperature, dim=-1) * len(drawn)
    assert temperature < 1.0 or int((expected > 5).sum()) > 50
    kept = expected > 5
    chi_square = ((torch.bincount(drawn, minlength=SIZE) - expected) ** 2 / expected)[kept].sum().item()
    degrees = int(kept.sum()) - 1
    assert chi_square < degrees + 5 * (2 * degrees) ** 0.5


@pytest.mark.parametrize("name", FOLDERS)
def test_nothing_in_a_folder_changes_what_is_drawn(folder, tmp_path, name):
    copy = AutoModelForCausalLM.from_pretrained(folder)
    copy.save_pretrained(tmp_path)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: FOLDERS[name]}))
    changed, plain = (load_causal_lm(str(each), "student.path") for each in (tmp_path, folder))
    held = getattr(changed.generation_config, name)
    assert held != getattr(plain.generation_config, name)
    prompts = torch.tensor([[0, 5, 9, 5], [0, 5, 5, 5]])
    assert torch.equal(draw(changed, prompts, new=12), draw(plain, prompts, new=12))
    assert getattr(changed.generation_config, name) == held  # what a saved student carries on is not our affair


def test_a_failed_drawing_leaves_the_settings_of_the_model(monkeypatch):
    model = make_llama(SIZE).eval()
    model.generation_config = own = GenerationConfig(repetition_penalty=1.3)
    monkeypatch.setattr(model, "forward", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw(model, torch.tensor([[0, 5]]))
    assert model.generation_config is own


def test_a_padded_head_is_drawn_from_as_if_its_padding_were_not_there():
    model = make_llama(SIZE + 9).eval()
    with torch.no_grad():
        model.lm_head.weight[SIZE:] = 50 * model.lm_head.weight[:9]
    prompt = torch.tensor([[0, 5, 9]])
    drawn = draw(model, prompt.repeat(4000, 1), new=1)[:, -1]
    assert drawn.max() < SIZE
    expected = torch.softmax(model(input_ids=prompt).logits[0, -1, :SIZE].double(), dim=-1)
    assert (torch.bincount(drawn, minlength=SIZE) / 4000 - expected).abs().max() < 0.04


def test_text_is_drawn_in_the_precision_of_the_training(monkeypatch):
    model, seen = make_llama(SIZE).eval(), []
    handle = model.model.layers[0].mlp.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    options = {"max_new_tokens": 2, "temperature": 1.0, "vocab_size": SIZE, "end_id": END}
    sample_text(model, torch.tensor([[0, 5]]), **options, autocast_dtype=torch.bfloat16)
    sample_text(model, torch.tensor([[0, 5]]), **options)
    handle.remove()
    assert seen[0] == torch.bfloat16 and seen[-1] == torch.float32


def test_continuations_of_two_copies_are_equal_though_one_has_settings_of_its_own(tmp_path):
    data = make_data(make_config(tmp_path), tmp_path)
    tokenizer = data.student_tokenizer
    models = [make_llama(len(tokenizer)).eval() for _ in range(2)]
    models[1].generation_config.update(repetition_penalty=1.5, top_p=0.4, min_p=0.1)
    texts = [
        continue_prompts(model, tokenizer, ["the quick"], max_new_tokens=20, temperature=1.0, seed=3)
        for model in models
    ]
    assert texts[0] == texts[1] and texts[0][0]


def test_a_continuation_ends_with_the_context(tmp_path, capsys):
    data = make_data(make_config(tmp_path), tmp_path)
    tokenizer = data.student_tokenizer
    model, prompt = make_llama(len(tokenizer)).eval(), "the quick"
    used = 1 + len(tokenizer(prompt, add_special_tokens=False).input_ids)
    options = {"temperature": 1.0, "seed": 3}
    (whole,) = continue_prompts(model, tokenizer, [prompt], max_new_tokens=20, **options)
    model.config.max_position_embeddings = used + 2
    (short,) = continue_prompts(model, tokenizer, [prompt], max_new_tokens=20, **options)
    assert short == continue_prompts(model, tokenizer, [prompt], max_new_tokens=2, **options)[0] != whole
    model.config.max_position_embeddings = used
    assert continue_prompts(model, tokenizer, [prompt], max_new_tokens=20, **options) == [""]
    assert f"a prompt of {used} tokens fills the context" in capsys.readouterr().out
