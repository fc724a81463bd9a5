"""Text is drawn from softmax(logits / temperature) over the tokenizer's tokens, whatever lies in a model's folder."""

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from kdkit.errors import UserError
from kdkit.models.continuations import continue_prompts
from kdkit.models.generation import Sampling, generate_ids
from kdkit.models.loading import load_causal_lm
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


def draw(model, prompts, new=6, size=SIZE, **settings):
    """Return the ids that follow each prompt, and how each ended."""
    written = generate_ids(model, prompts, Sampling(max_new_tokens=new, **settings), [END], vocab_size=size)
    return [(each.ids, each.stop_id) for (each,) in written]


def draw_first(model, prompt, count, size=SIZE, stop_ids=(), **settings):
    """Return the first token of many samples."""
    sampling = Sampling(max_new_tokens=1, **settings)
    options = {"vocab_size": size, "num_samples": count, "batch_size": 1000}  # 20,000 at once take nine times as long
    (samples,) = generate_ids(model, [prompt], sampling, stop_ids, **options)
    return torch.tensor([each.ids[0] for each in samples])


def sharp_llama(size=SIZE):
    """Return a model whose predictions differ from each other by more than rounding."""
    model = make_llama(size).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6 if weight.ndim > 1 else 1)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_llama(SIZE).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_drawn_frequencies_are_the_softmax_of_the_models_logits(temperature):
    model, prompt = make_llama(SIZE).eval(), [0, 5, 9]
    drawn = draw_first(model, prompt, 20_000, temperature=temperature)
    logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
    expected = torch.softmax(logits.double() / temperature, dim=-1) * len(drawn)
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
    prompts = [[0, 5, 9, 5], [0, 5, 5]]
    assert draw(changed, prompts, new=12) == draw(plain, prompts, new=12)
    assert getattr(changed.generation_config, name) == held  # what a saved student carries on is not our affair


def test_a_failed_drawing_leaves_the_settings_of_the_model(monkeypatch):
    model = make_llama(SIZE).eval()
    model.generation_config = own = GenerationConfig(repetition_penalty=1.3)
    monkeypatch.setattr(model, "forward", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw(model, [[0, 5]])
    assert model.generation_config is own


def test_a_padded_head_is_drawn_from_as_if_its_padding_were_not_there():
    model = make_llama(SIZE + 9).eval()
    with torch.no_grad():
        model.lm_head.weight[SIZE:] = 50 * model.lm_head.weight[:9]
    prompt = [0, 5, 9]
    drawn = draw_first(model, prompt, 4000)
    assert drawn.max() < SIZE
    expected = torch.softmax(model(input_ids=torch.tensor([prompt])).logits[0, -1, :SIZE].double(), dim=-1)
    assert (torch.bincount(drawn, minlength=SIZE) / 4000 - expected).abs().max() < 0.04
    assert max(draw(model, [prompt], new=12, temperature=0)[0][0]) < SIZE


def test_text_is_drawn_in_the_precision_of_the_training():
    model, seen = make_llama(SIZE).eval(), []
    handle = model.model.layers[0].mlp.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    sampling = Sampling(max_new_tokens=2)
    generate_ids(model, [[0, 5]], sampling, [END], vocab_size=SIZE, autocast_dtype=torch.bfloat16)
    generate_ids(model, [[0, 5]], sampling, [END], vocab_size=SIZE)
    handle.remove()
    assert seen[0] == torch.bfloat16 and seen[-1] == torch.float32


PROMPTS = [[0, 5, 9], [0, 7], [0, 3, 4, 5, 6, 7, 8, 9, 10, 11], [0, 22, 33], [5, 6, 7, 8, 9, 10, 2, 3, 4]]


def gpt2(context):
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=SIZE, n_positions=context, eos_token_id=1, bos_token_id=0, **shape))
    with torch.no_grad():
        model.transformer.wte.weight.mul_(20)
        model.transformer.wpe.weight.mul_(20)
    return model.eval()


@pytest.mark.parametrize("make", [sharp_llama, lambda: gpt2(64)], ids=["rotary", "learned positions"])
@pytest.mark.parametrize("settings", [{"temperature": 0}, {"repetition_penalty": 1.4, "top_p": 0.9, "seed": 3}])
def test_a_prompt_is_continued_alone_as_in_a_batch(make, settings):
    model = make()
    together = draw(model, PROMPTS, new=12, **settings)
    assert together == [alone(model, PROMPTS, i, **settings) for i in range(len(PROMPTS))]
    assert len({tuple(ids) for ids, _ in together}) == len(PROMPTS)


def alone(model, prompts, index, **settings):
    """Return what follows one of the prompts, each being in a batch of its own."""
    sampling = Sampling(max_new_tokens=12, **settings)
    written = generate_ids(model, prompts[: index + 1], sampling, [END], vocab_size=SIZE, batch_size=1)
    return written[-1][0].ids, written[-1][0].stop_id


def windowed(size):
    """Return a model of which one layer sees few tokens back."""
    sizes = {
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4, "use_sliding_window": True}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=size, head_dim=8, **sizes, **layers)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(20 if weight.ndim > 1 else 1)
    return model


@pytest.mark.parametrize(
    "make", [sharp_llama, lambda: gpt2(64), lambda: windowed(SIZE)], ids=["rotary", "gpt2", "window"]
)
def test_a_prompt_with_several_samples_is_read_once(make):
    """The samples are those of rows that each read their prompt, and the prompt is read by one row."""
    model, widths = make(), []
    handle = model.base_model.register_forward_pre_hook(
        lambda _, args, options: widths.append(tuple((args[0] if args else options["input_ids"]).shape)),
        with_kwargs=True,
    )
    sampling, options = Sampling(max_new_tokens=9, top_p=0.95), {"vocab_size": SIZE, "num_samples": 3}
    prompts = [[0, 3, 4, 9, 8, 7, 5], [0, 5], [0, 6, 6, 6]]
    together = generate_ids(model, prompts, sampling, [END], batch_size=7, **options)
    assert widths[:2] == [(3, 6), (7, 1)]
    widths.clear()
    alone = generate_ids(model, prompts, sampling, [END], batch_size=1, **options)
    handle.remove()
    assert widths[0] == (1, 2)
    assert together == alone
    for these, those in zip(together, alone, strict=True):
        assert [each.logprob for each in these] == pytest.approx([each.logprob for each in those], rel=1e-4)


def test_greedy_text_is_what_the_whole_forward_pass_says():
    model, ids = sharp_llama(), [0, 3, 4]
    ((written, stop_id),) = draw(model, [ids], new=8, temperature=0)
    for token_id in [*written, *[stop_id] * (stop_id is not None)]:
        assert model(input_ids=torch.tensor([ids])).logits[0, -1].argmax() == token_id
        ids = [*ids, token_id]
    assert len(ids) > 3


def test_samples_depend_on_the_seed_and_differ_from_each_other():
    model = sharp_llama()
    samples = [
        generate_ids(model, [[0, 5], [0, 5]], Sampling(max_new_tokens=8, seed=seed), [], vocab_size=SIZE, num_samples=3)
        for seed in (0, 0, 1)
    ]
    assert samples[0] == samples[1] != samples[2]
    assert len({tuple(each.ids) for row in samples[0] for each in row}) == 6


def test_a_list_that_is_written_in_parts_is_written_as_the_whole_would_be():
    model, sampling, options = sharp_llama(), Sampling(max_new_tokens=8), {"vocab_size": SIZE, "num_samples": 2}
    whole = generate_ids(model, PROMPTS, sampling, [END], **options)
    parts = [generate_ids(model, PROMPTS[i : i + 2], sampling, [END], first=i, **options) for i in (0, 2, 4)]
    assert whole == [row for part in parts for row in part]


@pytest.mark.parametrize(
    ("settings", "expected"), [({"top_k": 3}, 3), ({"top_p": 0.5}, None), ({"min_p": 0.5}, None)], ids=str
)
def test_the_tail_is_cut_off_as_the_settings_state(settings, expected):
    model, prompt = sharp_llama(), [0, 5, 9]
    probs = torch.softmax(model(input_ids=torch.tensor([prompt])).logits[0, -1].double() / 2, dim=-1)
    ordered, order = probs.sort(descending=True)
    count = (
        expected
        or {
            "top_p": int((ordered.cumsum(0) - ordered < 0.5).sum()),
            "min_p": int((ordered >= 0.5 * ordered[0]).sum()),
        }[next(iter(settings))]
    )
    drawn = draw_first(model, prompt, 3000, temperature=2.0, **settings)
    assert set(drawn.tolist()) == set(order[:count].tolist())


def test_a_penalty_keeps_greedy_text_from_going_round_in_circles():
    model = sharp_llama()
    prompts = [[0, 5], [0, 5, 9, 11, 12, 13]]
    plain, penalised = (draw(model, prompts, new=30, temperature=0, repetition_penalty=p) for p in (1.0, 1e6))
    assert min(len(set(ids)) for ids, _ in plain) < 30
    for prompt, (ids, _) in zip(prompts, penalised, strict=True):
        assert len({*prompt, *ids}) == len(prompt) + len(ids)


def test_any_of_several_stop_tokens_ends_a_text():
    model = sharp_llama()
    ((free, _),) = draw(model, [[0, 5]], new=12, temperature=0)
    third = free.index(free[3])
    sampling = Sampling(temperature=0, max_new_tokens=12)
    ((stopped,),) = generate_ids(model, [[0, 5]], sampling, [68, free[3], END], vocab_size=SIZE)
    assert (stopped.ids, stopped.stop_id, stopped.stopped) == (free[:third], free[3], True)
    ((whole,),) = generate_ids(model, [[0, 5]], sampling, [], vocab_size=SIZE)
    assert len(whole.ids) == 12 and not whole.stopped


def test_every_text_ends_with_the_context_of_the_model():
    model = gpt2(16)  # a position beyond has no embedding
    written = draw(model, [[0] * 3, [0] * 13, [0] * 15, [0] * 9], new=6, temperature=0)
    assert [len(ids) for ids, _ in written] == [6, 3, 1, 6]


@pytest.mark.parametrize("length", [16, 40])
def test_a_prompt_that_fills_the_context_is_refused_with_the_numbers(length):
    with pytest.raises(UserError, match=rf"prompt: expected fewer than 16 tokens, .* got {length}"):
        draw(gpt2(16), [[0, 1], [0] * length])


def test_an_empty_prompt_is_refused():
    with pytest.raises(UserError, match="prompt: expected at least one token"):
        draw(gpt2(16), [[]])


def test_tokens_are_passed_on_as_they_are_drawn():
    model, heard = sharp_llama(), []
    sampling = Sampling(max_new_tokens=7, seed=2)
    ((text,),) = generate_ids(model, [[0, 5]], sampling, [], vocab_size=SIZE, on_token=heard.append)
    assert heard == text.ids and len(heard) == 7


def test_a_model_in_training_is_left_in_training():
    model = make_llama(SIZE).train()
    model.config.use_cache = False  # as training leaves it
    assert draw(model, [[0, 5]], seed=1) == draw(model.eval(), [[0, 5]], seed=1)
    draw(model.train(), [[0, 5]])
    assert model.training


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
