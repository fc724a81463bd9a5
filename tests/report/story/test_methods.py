"""Losses in words and as formulas, and the sources that a page cites."""

import re
from pathlib import Path

import pytest

import kdkit
from kdkit.config.losses import loss_options
from kdkit.config.methods import Cosine, simple_methods
from kdkit.report.story.methods import ACROSS, DIVERGENCES, WITHIN, loss_as_formula, loss_in_words, used_loss
from kdkit.report.story.references import OF_METHODS, language_references, method_references, read_references

CODE = Path(kdkit.__file__).parent
DISTILL = {"kd_ratio": 0.9, "temperature": 1.0, "loss": "auto"}


@pytest.mark.parametrize("name", sorted(loss_options().keys() - {"auto"}))
def test_every_loss_has_words_and_a_formula_without_a_gap(name):
    words, formula = loss_in_words({"name": name}), loss_as_formula({"name": name}, DISTILL)
    assert name in words and "the teacher (" not in words
    assert "loss = 0.1 \u00b7 CE + 0.9 \u00b7 KD" in formula and "\nKD = " in formula
    assert not re.search("[{}]", words + formula)


def test_no_loss_is_explained_that_is_not_there():
    assert DIVERGENCES.keys() | ACROSS.keys() | WITHIN.keys() == loss_options().keys() - {"auto"}


def test_a_formula_has_the_numbers_of_the_run():
    loss = {"name": "jsd", "teacher_weight": 0.1}
    formula = loss_as_formula(loss, {"kd_ratio": 0.25, "temperature": 2.0, "weights": {"logits": 1.0, "feature": 0.5}})
    assert "loss = 0.75 \u00b7 CE + 0.25 \u00b7 KD" in formula
    assert "KD = 2\u00b2 \u00b7 [0.1 \u00b7 KL(p \u2016 m) + 0.9 \u00b7 KL(q \u2016 m)" in formula
    assert "beside 1 \u00b7 the above: 0.5 \u00b7 hidden states" in formula
    assert "2\u00b2" not in loss_as_formula({"name": "alm"}, DISTILL | {"temperature": 2.0})


def test_what_auto_chose_is_what_is_explained_and_cited():
    config = {"distill": DISTILL | {"start_from_teacher": True}, "train": {"optimizer": "muon"}}
    training = {"loss": {"name": "alm", "reason": "the cache holds true tokens"}}
    assert used_loss(config, training) == {"name": "alm"} and used_loss(config, {}) == {"name": "auto"}
    keys = [reference.key for reference in language_references(config, training)]
    assert keys == ["hinton2015distilling", "minixhofer2025alm", "trinh2025guide", "liu2025muon"]


def test_losses_inside_others_and_of_stages_are_cited_once():
    inner = {"name": "projected_kl", "divergence": {"name": "jsd", "teacher_weight": 0.5}}
    stages = [{"name": "a", "loss": "reverse_kl", "on_policy": {}}, {"name": "b", "loss": None, "on_policy": {"x": 1}}]
    found = language_references({"distill": DISTILL | {"loss": inner}, "train": {"stages": stages}}, {})
    assert [each.key for each in found] == ["hinton2015distilling", "agarwal2023gkd", "gu2023minillm"]
    assert "by jsd" in loss_in_words(inner)


@pytest.mark.parametrize("name", ["talas", "dskd", "similarity_kl"])
def test_methods_of_embeddings_are_cited_where_somebody_published_them(name):
    keys = [reference.key for reference in method_references({"method": {"name": name}})]
    assert keys == ["hinton2015distilling", *([OF_METHODS[name]] if name in OF_METHODS else [])]
    assert Cosine().name in OF_METHODS and "cosine" in simple_methods()


def test_every_source_is_named_where_the_code_uses_it():
    code = "\n".join(path.read_text(encoding="utf-8") for path in CODE.rglob("*.py"))
    for reference in read_references().values():
        assert reference.arxiv in code if reference.arxiv else reference.key[:5].lower() in code.lower()
        assert reference.bibtex.startswith(f"@misc{{{reference.key},") and reference.bibtex.count("{") == (
            reference.bibtex.count("}")
        )
        assert int(reference.year) > 2010 and reference.title
