"""The teacher stage: loading with one-line errors, building once, and a probe with known answers."""

import math

import pytest
import torch
from transformers import LlamaForCausalLM

from kdkit.config.language import config_from_values
from kdkit.data.windows import PAD
from kdkit.errors import UserError
from kdkit.models.continuations import choose_prompts, continue_prompts
from kdkit.models.loading import check_fits, load_causal_lm, num_experts
from kdkit.teachers.prepare import Teacher, prepare_teacher
from kdkit.teachers.probe import measure_routings, probe_teacher
from kdkit.training.scoring import score_windows
from tests.tiny import CPU, make_config, make_data, make_llama, make_run, make_session, make_teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("teacher")


@pytest.fixture(scope="module")
def config(folder):
    return make_config(
        folder, teacher={"build": {"vocab_size": 320, "hidden_size": 16, "num_layers": 2, "max_steps": 30}}
    )


@pytest.fixture(scope="module")
def data(config, folder):
    return make_data(config, folder)


@pytest.fixture(scope="module")
def built(config, data, folder):
    return prepare_teacher(make_session(config, make_run(folder, "first")), data)


def test_the_built_teacher_is_the_mixture_the_config_asks_for(built):
    architecture = built.model.config
    assert type(built.model).__name__ == "Qwen3MoeForCausalLM"
    assert (num_experts(architecture), architecture.num_experts_per_tok, architecture.num_hidden_layers) == (8, 2, 2)
    assert not any(parameter.requires_grad for parameter in built.model.parameters())


def test_training_made_the_built_teacher_better_than_chance(built, data):
    score = score_windows(built.model, data.evaluation, "teacher", 8)
    assert score.perplexity < len(data.teacher_tokenizer) * 0.8


def test_a_second_run_takes_the_teacher_from_the_cache(config, data, folder, built, monkeypatch):
    monkeypatch.setattr("kdkit.teachers.build._build", lambda *arguments: pytest.fail("built again"))
    again = prepare_teacher(make_session(config, make_run(folder, "second")), data)
    for a, b in zip(built.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_other_settings_build_another_teacher(config, data, folder, built, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("building")

    monkeypatch.setattr("kdkit.teachers.build._build", fail)
    build = config.teacher.build.model_copy(update={"learning_rate": 1e-4})
    changed = config.model_copy(update={"teacher": config.teacher.model_copy(update={"build": build})})
    with pytest.raises(RuntimeError, match="building"):
        prepare_teacher(make_session(changed, make_run(folder, "third")), data)


def test_a_failed_build_leaves_no_teacher_in_the_cache(config, data, folder, monkeypatch):
    def fail(session, path, *rest):
        (path / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr("kdkit.teachers.build._build", fail)
    seeded = config.model_copy(update={"seed": 7})
    before = sorted((folder / "cache" / "teachers").iterdir())
    with pytest.raises(KeyboardInterrupt):
        prepare_teacher(make_session(seeded, make_run(folder, "fourth")), data)
    assert sorted((folder / "cache" / "teachers").iterdir()) == before


def uniform_teacher(data) -> Teacher:
    """A mixture whose next-token distribution is uniform, so that every figure is known."""
    teacher = make_teacher(data)
    with torch.no_grad():
        teacher.model.get_output_embeddings().weight.zero_()
    return teacher


def test_probe_of_a_uniform_teacher_is_known(config, data, folder):
    size = len(data.teacher_tokenizer)
    probe = probe_teacher(make_session(config, make_run(folder, "uniform")), data, uniform_teacher(data))
    tokens = int((data.evaluation.teacher_ids[:, 1:] != PAD).sum())
    assert probe["perplexity"] == pytest.approx(size, rel=1e-4)
    assert probe["entropy"] == pytest.approx(math.log(size), rel=1e-4)
    assert probe["top_k_mass"] == pytest.approx(config.teacher.top_k / size, rel=1e-4)
    assert probe["bits_per_byte"] == pytest.approx(math.log2(size) * tokens / data.evaluation.num_bytes.sum(), rel=1e-4)


def test_expert_load_is_the_share_of_tokens_each_expert_is_sent(config, data, folder):
    teacher = make_teacher(data)
    with torch.no_grad():  # the first layer's gate prefers experts 3 and 1 for any input with a positive sum
        teacher.model.model.layers[0].mlp.gate.weight.copy_(torch.tensor([-2.0, 1.0, -1.0, 2.0])[:, None].expand(4, 16))
        teacher.model.model.layers[0].post_attention_layernorm.weight.zero_()
    probe = probe_teacher(make_session(config, make_run(folder, "load")), data, teacher)
    load = torch.tensor(probe["expert_load"])
    assert load.shape == (2, 4)
    assert torch.allclose(load.sum(dim=1), torch.ones(2))
    # with its input at zero every gate logit ties, and ties are broken the same way for every token
    assert sorted(load[0].tolist()) == [0, 0, 0.5, 0.5]


def test_a_dense_teacher_has_no_experts_to_speak_of(config, data, folder):
    teacher = Teacher(make_llama(len(data.teacher_tokenizer)).eval(), "dense", False)
    probe = probe_teacher(make_session(config, make_run(folder, "dense")), data, teacher)
    assert probe["expert_load"] is None
    assert probe["by_routing"] is None


def test_routings_are_scored_as_models_configured_with_them(config, data):
    windows = data.evaluation.first(4)
    teacher = make_teacher(data)
    rows = {row["routing"]: row for row in measure_routings(teacher, windows, config.evaluate.batch_size, CPU)}
    assert list(rows) == ["own", "top 1", "top 2", "all"]
    own = score_windows(teacher.model, windows, "teacher", 4)
    assert rows["own"] == {"routing": "own", "perplexity": own.perplexity, "bits_per_byte": own.bits_per_byte}
    for name, k in (("top 1", 1), ("top 2", 2), ("all", 4)):
        for layer in teacher.model.model.layers:
            layer.mlp.gate.top_k = k
        expected = score_windows(teacher.model, windows, "teacher", 4).perplexity
        assert rows[name]["perplexity"] == pytest.approx(expected, rel=1e-4)


def test_a_mixture_of_one_expert_is_probed(tmp_path):
    sizes = {"hidden_size": 16, "num_layers": 1, "moe_intermediate_size": 16, "max_steps": 2}
    build = {"vocab_size": 320, "num_experts": 1, "num_experts_per_tok": 1, **sizes}
    config = make_config(tmp_path, teacher={"build": build})
    data, session = make_data(config, tmp_path), make_session(config, make_run(tmp_path))
    teacher = prepare_teacher(session, data)
    rows = measure_routings(teacher, data.evaluation.first(4), 4, CPU)
    assert [row["routing"] for row in rows] == ["own", "top 1", "all"]
    assert rows[0]["perplexity"] == pytest.approx(rows[2]["perplexity"], rel=1e-4)


def test_prompts_are_the_first_words_of_texts_that_are_longer():
    assert choose_prompts(["a b", "a b c d", "e f g h"], count=1, num_words=3) == ["a b c"]


def test_continuations_are_equal_for_equal_seeds(data):
    model = make_llama(len(data.student_tokenizer)).eval()
    options = {"max_new_tokens": 6, "temperature": 1.0}
    first = continue_prompts(model, data.student_tokenizer, ["the quick"], seed=1, **options)
    assert first == continue_prompts(model, data.student_tokenizer, ["the quick"], seed=1, **options)
    assert first != continue_prompts(model, data.student_tokenizer, ["the quick"], seed=2, **options)


def test_a_folder_without_weights_is_refused(tmp_path):
    make_llama(32).config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"teacher\.path: expected \*\.safetensors weights .* got no weights"):
        load_causal_lm(str(tmp_path), "teacher.path")


def test_pickled_weights_are_refused(tmp_path):
    make_llama(32).config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"got only pytorch_model\.bin.*save_pretrained"):
        load_causal_lm(str(tmp_path), "teacher.path")


def test_damaged_weights_are_one_line(tmp_path):
    make_llama(32).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match=r"teacher\.path: expected a causal LM") as caught:
        load_causal_lm(str(tmp_path), "teacher.path")
    assert "\n" not in str(caught.value)


def test_weights_that_lack_parameters_are_refused_instead_of_filled_with_random_ones(tmp_path):
    model = make_llama(32)
    model.save_pretrained(tmp_path)
    model.config.num_hidden_layers = 2
    model.config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"expected weights for every parameter.*model\.layers\.1"):
        load_causal_lm(str(tmp_path), "teacher.path")


def test_a_missing_folder_and_an_unreachable_hub_name_say_what_to_do(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_causal_lm(str(tmp_path / "none"), "teacher.path")
    with pytest.raises(UserError, match=r"'someone/some-model'.*no network.*teacher\.path=FOLDER"):
        load_causal_lm("someone/some-model", "teacher.path")


def test_a_model_smaller_than_its_tokenizer_or_its_text_is_refused():
    model = make_llama(32)
    with pytest.raises(UserError, match=r"at least 40 vocabulary rows.*got a model with 32"):
        check_fits(model, 40, 8, "teacher.path", "teacher.max_length")
    model.config.max_position_embeddings = 16
    with pytest.raises(UserError, match=r"teacher\.max_length: expected at most 16 tokens.*got 20"):
        check_fits(model, 32, 20, "teacher.path", "teacher.max_length")


def test_a_real_pretrained_model_reaches_its_known_loss(test_data, tmp_path):
    """stories260K on TinyStories: 1.297 nats a token on its own validation text."""
    text = (test_data / "lm" / "tinystories_a.txt").read_text()[:60_000]
    (tmp_path / "stories.txt").write_text(text)
    path = str(test_data / "models" / "stories260K")
    config = config_from_values(
        {
            "data": {"path": str(tmp_path / "stories.txt"), "max_length": 128, "evaluation_fraction": 0.3},
            "teacher": {"path": path, "max_length": 256},
        }
    )
    model = load_causal_lm(path, "teacher.path")
    assert isinstance(model, LlamaForCausalLM)
    score = score_windows(model, make_data(config, tmp_path).evaluation, "teacher", 8)
    # windows cut stories in two and start without context, so a little above the whole-story figure
    assert 1.2 < math.log(score.perplexity) < 1.7
