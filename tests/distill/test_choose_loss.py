"""Which loss a pair is trained on, why, and what is refused."""

from dataclasses import replace

import pytest

from kdkit.config.losses import ALM, ForwardKL
from kdkit.config.teacher import CacheConfig
from kdkit.distill.choose_loss import check_cached_loss, check_temperature_is_taken, choose_loss
from kdkit.errors import UserError
from kdkit.losses.closed_forms import MEASURES
from tests.distill.objectives import LOSSES, every_loss, settings_of
from tests.tiny import make_config

# ---- which loss ----


def test_auto_is_forward_kl_with_one_tokenizer(pairs, tmp_path):
    settings, reason = choose_loss(make_config(tmp_path), pairs["same"].data)
    assert settings == ForwardKL()
    assert "share a tokenizer" in reason


@pytest.mark.parametrize("finer", ["student", "teacher"])
def test_auto_is_projected_kl_onto_the_finer_of_two_tokenizers_and_says_which(pairs, finer, tmp_path):
    data = pairs[f"finer {finer}"].data
    settings, reason = choose_loss(make_config(tmp_path), data)
    assert settings.name == "projected_kl"
    share = data.manifest["train"]["same_prefix_share"]
    assert f"{share:.0%} of the student's tokens" in reason and f"the {finer}'s is the finer one" in reason


@pytest.mark.parametrize(("share", "expected"), [(0.29, "xtoken_p_kl"), (0.31, "projected_kl")])
def test_auto_compares_whole_spans_where_few_prefixes_are_shared(pairs, share, expected, tmp_path):
    data = pairs["crossed"].data
    manifest = data.manifest | {"train": data.manifest["train"] | {"same_prefix_share": share}}
    settings, reason = choose_loss(make_config(tmp_path), replace(data, manifest=manifest))
    assert settings.name == expected
    assert f"{share:.0%} of the student's tokens" in reason
    assert ("whole spans" in reason) is (expected == "xtoken_p_kl")


@pytest.mark.parametrize("pair", ["same", "crossed"])
def test_auto_is_alm_for_a_cache_of_true_tokens(pairs, pair, tmp_path):
    cache = {"enabled": True, "mode": "true_token"}
    settings, reason = choose_loss(make_config(tmp_path, cache=cache), pairs[pair].data)
    assert settings.name == "alm"
    assert "the cache holds" in reason


def with_facts(data, **facts):
    """Return data whose training text was read as said."""
    return replace(data, manifest=data.manifest | {"train": data.manifest["train"] | facts})


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize(("share", "expected"), [(0.2, "alm"), (0.0005, "projected_kl")])
def test_auto_compares_likelihoods_of_spans_where_a_tokenizer_changes_the_text(pairs, side, share, expected, tmp_path):
    data = with_facts(pairs["crossed"].data, same_prefix_share=0.54, **{f"{side}_changed_share": share})
    settings, reason = choose_loss(make_config(tmp_path), data)
    assert settings.name == expected
    assert (f"the {side}'s tokenizer changes {share:.1%}" in reason) is (expected == "alm")
    asked = choose_loss(make_config(tmp_path, distill={"loss": "overlap_kl"}), data)
    assert asked[0].name == "overlap_kl" and ("tokenizer changes" in asked[1]) is (expected == "alm")


@pytest.mark.parametrize("pair", ["same", "crossed"])
def test_auto_refuses_a_teacher_that_cannot_read_the_text(pairs, pair, tmp_path):
    data = with_facts(pairs[pair].data, teacher_unknown_share=0.61)
    with pytest.raises(
        UserError, match=r"teacher\.path: .* reads 61% of its bytes as unknown tokens; choose"
    ) as caught:
        choose_loss(make_config(tmp_path), data)
    assert "\n" not in str(caught.value)
    assert choose_loss(make_config(tmp_path, distill={"loss": "alm"}), data)[0].name == "alm"


def test_a_loss_that_was_asked_for_is_taken_with_its_options(pairs, tmp_path):
    config = make_config(tmp_path, distill={"loss": {"name": "gold", "teacher_weight": 0.25}})
    settings, reason = choose_loss(config, pairs["crossed"].data)
    assert (settings.name, settings.teacher_weight) == ("gold", 0.25)
    assert "distill.loss" in reason


# ---- what is refused ----


@pytest.mark.parametrize("loss", MEASURES)
def test_a_loss_that_compares_ids_is_refused_for_two_tokenizers_in_one_line(pairs, loss, tmp_path):
    config, data = make_config(tmp_path, distill={"loss": loss}), pairs["crossed"].data
    message = rf"distill\.loss: expected one tokenizer for '{loss}', got .* 290 .* 320.*projected_kl"
    with pytest.raises(UserError, match=message) as caught:
        choose_loss(config, data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name not in MEASURES])
def test_a_loss_that_compares_text_is_taken_for_any_two_tokenizers(pairs, loss, tmp_path):
    config = make_config(tmp_path, distill={"loss": loss})
    for pair in pairs.values():
        assert choose_loss(config, pair.data)[0].name == loss


def test_alm_has_no_softmax_temperature_and_names_its_own():
    with pytest.raises(UserError, match=r"distill\.temperature: expected 1 for 'alm'.*likelihood_temperature"):
        check_temperature_is_taken(ALM(), 2.0)


SERVED = {
    "top_k": {*MEASURES, "overlap_kl", "projected_kl"},
    "sampled": {"forward_kl", "overlap_kl", "projected_kl"},
    "true_token": {"alm"},
}


@every_loss
@pytest.mark.parametrize("mode", SERVED)
def test_a_cache_serves_the_losses_that_its_mode_holds_enough_for(mode, loss):
    settings, cache = settings_of(loss), CacheConfig(mode=mode)
    if loss in SERVED[mode]:
        check_cached_loss(settings, cache)
        return
    with pytest.raises(UserError, match=rf"'{loss}'") as caught:
        check_cached_loss(settings, cache)
    message = str(caught.value)
    assert "\n" not in message and mode in message.replace("sampled answers", "sampled")


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"mode": "sampled"}, "expected forward_kl for sampled answers, got 'reverse_kl'"),
        ({"tail": "keep_mass"}, "expected one of forward_kl for cache.tail=keep_mass, got 'reverse_kl'"),
        ({"tail": "renormalise"}, "for cache.tail=renormalise, got 'reverse_kl'"),
    ],
)
@pytest.mark.parametrize("loss", ["reverse_kl", {"name": "projected_kl", "divergence": "reverse_kl"}])
def test_the_divergence_inside_a_loss_is_checked_against_the_cache(loss, cache, message):
    with pytest.raises(UserError, match=message):
        check_cached_loss(settings_of(loss), CacheConfig(**cache))
