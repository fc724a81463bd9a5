"""kaggle_kernel.json: what it says, and what is refused before Kaggle makes something else of it."""

import json

import pytest

from kdkit import cli
from kdkit.errors import UserError
from kdkit.workflow.kaggle.source import read_source, slug_of
from tests.workflow.kaggle.sessions import ROOT

STAGES = ["01_data", "02_teacher_probe", "03_distill", "04_evaluate", "05_report"]


def write(folder, **changes):
    """Write the repository's file with some keys changed; return it."""
    values = json.loads((ROOT / "kaggle_kernel.json").read_text()) | {"owner": "me"} | changes
    file = folder / "kaggle_kernel.json"
    file.write_text(json.dumps(values))
    return file


def test_the_file_of_the_repository_is_the_whole_story_in_a_chain(monkeypatch):
    monkeypatch.delenv("KAGGLE_USERNAME", raising=False)
    source = read_source(ROOT / "kaggle_kernel.json", "me")
    assert list(source.notebooks) == STAGES
    slugs = [source.slug(name) for name in STAGES]
    assert [source.sources_of(name) for name in STAGES] == [[], *[[f"me/{slug}"] for slug in slugs[:-1]]]
    assert [slug_of(source.title(name)) for name in STAGES] == slugs


def test_an_entry_takes_what_it_leaves_out_from_the_defaults(tmp_path):
    defaults = {"config": "configs/demo.yaml", "is_private": False}
    source = read_source(write(tmp_path, defaults=defaults, notebooks={"a_name": {}, "another": {"is_private": True}}))
    assert [kernel.config for kernel in source.notebooks.values()] == ["configs/demo.yaml"] * 2
    assert [kernel.is_private for kernel in source.notebooks.values()] == [False, True]


def test_the_owner_is_an_option_or_the_file_s_or_the_environment_s(tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_USERNAME", "her")
    assert read_source(write(tmp_path), "you").owner == "you"
    assert read_source(write(tmp_path)).owner == "me"
    assert read_source(write(tmp_path, owner="")).owner == "her"


BAD = {
    "a shape that no machine has": ({"defaults": {"machine_shape": "NvidiaTeslaT5"}}, "did you mean 'NvidiaTeslaT4'?"),
    "a slug of four letters": (
        {"slug_prefix": "", "notebooks": {"data": {}}},
        "expected a slug of 5 to 50 small letters",
    ),
    "a slug of 51 letters": ({"slug_prefix": "k" * 43}, "expected a slug of 5 to 50 small letters"),
    "a title of another slug": ({"notebooks": {"01_data": {"title": "My data"}}}, "whose slug is 'kdkit-01-data', got"),
    "a source that is no entry": ({"notebooks": {"01_data": {"kernel_sources": ["00"]}}}, "or OWNER/SLUG, got '00'"),
    "a misspelt key of an entry": ({"notebooks": {"01_data": {"enable_gp": True}}}, "did you mean 'enable_gpu'?"),
    "a misspelt key of the file": ({"ownr": "me"}, "got 'ownr'; did you mean 'owner'?"),
    "words for a truth value": (
        {"notebooks": {"01_data": {"enable_gpu": "true"}}},
        "enable_gpu: expected another value",
    ),
    "a number for an entry": ({"notebooks": {"01_data": 1}}, "notebooks.01_data: expected another value"),
    "a list for entries": ({"notebooks": []}, "expected `notebooks`, with an entry for each kernel"),
    "no entries": ({"notebooks": {}}, "expected `notebooks`, with an entry for each kernel"),
    "a path for a name": ({"notebooks": {"../01_data": {}}}, "got '../01_data'; rename it"),
    "no owner": ({"owner": ""}, "expected your name at Kaggle as owner, got ''"),
    "an owner with a path": ({"owner": "me/kdkit"}, "expected your name at Kaggle as owner, got 'me/kdkit'"),
    "a data set of five letters": ({"package": "kdkit"}, "package: expected a slug of 6 to 50"),
}


@pytest.mark.parametrize("what", BAD)
def test_it_refuses(what, tmp_path, monkeypatch):
    monkeypatch.delenv("KAGGLE_USERNAME", raising=False)
    changes, words = BAD[what]
    with pytest.raises(UserError) as refusal:
        read_source(write(tmp_path, **changes))
    assert words in str(refusal.value) and str(refusal.value).startswith("kaggle_kernel.json: ")


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_what_is_no_such_file_is_one_line(tmp_path, capsys, content):
    file = tmp_path / "kaggle_kernel.json"
    file.write_text(content)
    for source in (file, tmp_path / "none.json"):
        with pytest.raises(SystemExit) as stop:
            cli.main(["kaggle", "render", "--source", str(source), "--owner", "me"])
        assert stop.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1
