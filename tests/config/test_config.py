from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from kdkit.config.language import ALIASES, Config, config_from_values, describe_difference, dump_config, load_config
from kdkit.config.values import flatten
from kdkit.errors import UserError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
# other schemas: files of `kdkit sweep`, and those with `method:`
CONFIGS = [path for path in CONFIGS if not {"variants", "method"} & set(yaml.safe_load(path.read_text()) or {})]


@pytest.fixture
def load(tmp_path):
    """Write YAML to a file and load it."""

    def write_and_load(text: str, *overrides: str) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, list(overrides))

    return write_and_load


def refusal(call, *arguments) -> str:
    """Return the message of the UserError that a call raises; it must fit one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_shipped_configuration_loads(path):
    assert isinstance(load_config(path), Config)


def test_there_are_shipped_configurations():
    assert CONFIGS


def test_an_empty_file_gives_the_defaults(load):
    assert load("") == Config()


def test_values_of_the_file_replace_defaults(load):
    config = load("train: {learning_rate: 0.01}\nseed: 7")
    assert (config.train.learning_rate, config.seed) == (0.01, 7)
    assert config.train.weight_decay == Config().train.weight_decay


@pytest.mark.parametrize(
    ("text", "unknown", "meant"),
    [
        ("distill: {temprature: 2}", "distill.temprature", "distill.temperature"),
        ("trian: {max_steps: 1}", "trian", "train"),
        ("teacher: {build: {hiden_size: 8}}", "teacher.build.hiden_size", "teacher.build.hidden_size"),
        ("train: {temperature: 2}", "train.temperature", "distill.temperature"),
        ("learning_rate: 1", "learning_rate", "learning_rate"),
    ],
)
def test_an_unknown_key_suggests_the_nearest_one(load, text, unknown, meant):
    message = refusal(load, text)
    assert message.startswith(f"{unknown}: expected a known key")
    suggestion = message.partition("did you mean ")[2].strip("'?")
    assert suggestion.endswith(meant)
    assert suggestion in [*flatten(Config().model_dump()), *Config.model_fields]


def test_a_key_like_no_other_lists_the_known_ones(load):
    assert "known here: title, num_examples" in refusal(load, "report: {zzzzzz: 1}")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.max_steps", "many"),
        ("train.max_steps", 2.5),
        ("train.learning_rate", True),
        ("data.path", 3),
        ("train.gradient_checkpointing", "yes"),
        ("data", "corpus.txt"),
        ("train", [1]),
        ("seed", None),
    ],
)
def test_a_wrong_type_is_refused_with_path_and_value(path, value):
    *sections, key = path.split(".")
    values = {key: value}
    for section in reversed(sections):
        values = {section: values}
    message = refusal(config_from_values, values)
    assert message.startswith(f"{path}: expected ")
    assert repr(value) in message and type(value).__name__ in message


@pytest.mark.parametrize(
    ("section", "key", "value", "constraint"),
    [
        ("distill", "kd_ratio", 1.5, "less than or equal to 1"),
        ("distill", "kd_ratio", -0.1, "greater than or equal to 0"),
        ("distill", "temperature", 0.0, "greater than 0"),
        ("data", "max_length", 4, "greater than or equal to 8"),
        ("data", "evaluation_fraction", 1.0, "less than 1"),
        ("train", "warmup_steps", -1, "greater than or equal to 0"),
        ("train", "learning_rate", float("nan"), ""),
        ("train", "learning_rate", float("inf"), "finite"),
        ("train", "learning_rate", "1e999", "finite"),
        ("data", "document_separator", "", "at least 1 character"),
        ("distill", "loss", "kl", "'gold', 'uld', 'cdm', got 'kl'"),
        ("train", "precision", "fp8", "'fp16' or 'bf16'"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_constraint(section, key, value, constraint):
    message = refusal(config_from_values, {section: {key: value}})
    assert message.startswith(f"{section}.{key}: expected ")
    assert constraint in message


@pytest.mark.parametrize("given", [[1, 2], 3, None, {1.5: 0}])
def test_a_layer_map_of_another_form_is_refused_with_the_forms_that_there_are(given):
    said = refusal(config_from_values, {"distill": {"layer_map": given}})
    forms = '"auto", {teacher layer: student layer}, {teacher: {...}}, or a .json file with one of these'
    assert said.startswith(f"distill.layer_map: expected {forms}, got ")
    assert f"got {given!r}" in said and said.endswith("; name a pair of layers, or set auto")
    if given is not None:  # there it means that of `distill`
        members = {"members": [{"name": "one", "layer_map": given}]}
        assert refusal(config_from_values, {"teachers": members}) == said.replace("distill", "teachers.members.0")


def test_further_problems_are_counted():
    message = refusal(config_from_values, {"train": {"max_steps": 0, "learning_rate": 0.0, "log_every": 0}})
    assert "(2 more problem(s) after this one)" in message


def test_a_number_without_a_point_in_its_mantissa_is_read(load):
    assert load("train: {learning_rate: 5e-4}").train.learning_rate == 5e-4


@pytest.mark.parametrize(("alias", "key"), [pair for pair in ALIASES.items() if pair[1] != "student.build"])
def test_an_alias_sets_its_key(alias, key):
    section, name = alias.split(".")
    value = {"train_data": "a.txt"}.get(name, 0.25 if name in ("alpha_kd", "alpha", "router_lr") else 9)
    config = flatten(config_from_values({section: {name: value}}).model_dump())
    assert config[key] == value
    assert alias not in config


@pytest.mark.parametrize("pair", [("alpha_kd", "kd_ratio"), ("kd_ratio", "alpha_kd"), ("alpha", "alpha_kd")])
def test_an_alias_beside_its_key_is_refused(pair):
    message = refusal(config_from_values, {"distill": dict.fromkeys(pair, 0.5)})
    assert "kd_ratio and its alias, got both" in message


@pytest.mark.parametrize("in_file", ["batch_size", "per_device_train_batch_size"])
@pytest.mark.parametrize("overriding", ["batch_size", "per_device_train_batch_size"])
def test_an_override_replaces_the_value_of_the_file_under_either_name(load, in_file, overriding):
    assert load(f"train: {{{in_file}: 2}}", f"train.{overriding}=6").train.per_device_train_batch_size == 6


def test_overrides_reach_nested_sections_and_are_typed_as_yaml(load):
    config = load(
        "teacher: {path: big}",
        "teacher.build.num_layers=3",
        "distill.equal_time_baseline=false",
        "data.subset_size=null",
        "train.num_epochs=0.5",
        "report.title=a=b",
    )
    assert (config.teacher.path, config.teacher.build.num_layers) == ("big", 3)
    assert config.distill.equal_time_baseline is False
    assert config.data.subset_size is None
    assert config.train.num_train_epochs == 0.5
    assert config.report.title == "a=b"


def test_the_last_of_two_overrides_counts(load):
    assert load("", "seed=1", "seed=2").seed == 2


def test_a_section_whose_keys_are_all_commented_out_keeps_the_defaults(load):
    assert load("data:\n  # max_length: 64\nseed: 1").data == Config().data


def test_an_override_opens_an_empty_section(load):
    assert load("data:", "data.max_length=64").data.max_length == 64


@pytest.mark.parametrize("override", ["seed", "=3", "data.path.x=1"])
def test_an_override_of_another_form_is_refused(load, override):
    assert override in refusal(load, "data: {path: corpus.txt}", override)


def test_an_unknown_override_suggests_the_nearest_key(load):
    assert "did you mean 'distill.temperature'" in refusal(load, "", "distill.temprature=2")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"router": {"initial_top_k": 5, "final_top_k": 4}},
            "router.initial_top_k: expected at most router.final_top_k = 4, got 5",
        ),
        ({"teacher": {"build": {"num_heads": 3}}}, "teacher.build.num_heads: expected hidden_size / num_heads"),
        ({"student": {"build": {"hidden_size": 12}}}, "student.build.num_heads: expected hidden_size / num_heads"),
        ({"teacher": {"build": {"num_experts": 1}}}, "teacher.build.num_experts_per_tok: expected at most"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values, message):
    assert refusal(config_from_values, values).startswith(message)


def test_a_missing_file_lists_its_neighbours(load, tmp_path):
    load("")
    message = refusal(load_config, tmp_path / "confg.yaml")
    assert "does not exist" in message and "has config.yaml" in message


def test_a_missing_file_in_a_missing_folder_says_so(tmp_path):
    assert "there is no YAML file in" in refusal(load_config, tmp_path / "nowhere" / "config.yaml")


@pytest.mark.parametrize("text", ["train: [", "train: {seed: 1", "a: b: c"])
def test_a_file_that_is_not_yaml_is_refused(load, text):
    assert refusal(load, text).startswith("config: expected YAML in")


def test_a_sweep_is_no_run(load):
    with pytest.raises(UserError, match=r"got variants in .*; (run: )?python -m kdkit sweep "):
        load("variants: {plain: {}}")


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"report: {title: caf\xe9}")
    assert "config: expected YAML in" in refusal(load_config, tmp_path / "config.yaml")


def test_a_file_without_sections_is_refused(load):
    assert "expected sections" in refusal(load, "- seed\n- 1")


@pytest.mark.parametrize("section", ["", "train", "teacher.build"])
def test_a_loaded_configuration_cannot_be_changed(section):
    target = Config()
    for name in filter(None, section.split(".")):
        target = getattr(target, name)
    name = next(iter(type(target).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(target, name, getattr(target, name))


def test_a_dumped_configuration_loads_as_the_same(load):
    config = load("seed: 3", "report.title='caf\u00e9 \u4e2d: #1'", "train.learning_rate=1e-7", "data.path='3'")
    assert load(dump_config(config)) == config


def test_a_difference_names_key_old_and_new_value():
    old, new = Config(), config_from_values({"distill": {"temperature": 2.0}, "teacher": {"build": {"num_layers": 2}}})
    assert describe_difference(old, new) == "teacher.build.num_layers: 4 -> 2, distill.temperature: 1.0 -> 2.0"


def test_equal_configurations_have_no_difference():
    assert describe_difference(Config(), config_from_values({"distill": {"alpha_kd": 0.5}})) == ""
