"""DSKD, CDM and EMO: what each option does, which parameters learn, and bad batches."""

import contextlib
import dataclasses
import time

import pytest
import torch

from kdkit.config.methods import Cdm, Dskd, Emo
from kdkit.embeddings.methods.cdm import CdmMethod
from kdkit.embeddings.methods.dskd import DskdMethod
from kdkit.embeddings.methods.emo import EmoMethod
from kdkit.embeddings.methods.views import Facts, StudentView, Views
from kdkit.embeddings.teacher.cache import TeacherView
from kdkit.errors import UserError
from kdkit.losses.sentences import cosine_distance, mse_of_units, similarity_mse

FACTS = Facts(student_width=6, teacher_width=8, student_layers=3, teacher_layers=6)
METHODS = {"dskd": (Dskd, DskdMethod), "cdm": (Cdm, CdmMethod), "emo": (Emo, EmoMethod)}
FORMS = ["recommended", "paper", "seed"]
EVERYTHING = [(name, form) for name in METHODS for form in FORMS]


def make(name, facts=FACTS, **options):
    """Make a method with reproducible weights."""
    settings, method = METHODS[name]
    torch.manual_seed(0)
    return method(settings(**options), facts)


def maps(batch, heads, mask):
    """Random attention of real tokens to real tokens."""
    size = mask.shape[1]
    scores = torch.randn(batch, heads, size, size).masked_fill(~mask[:, None, None].bool(), -1e4)
    return scores.softmax(dim=-1) * mask[:, None, :, None]


def make_views(student_lengths=(7, 5, 9), facts=FACTS, seed=0, layers=3):
    """Sentences whose last student word is two teacher tokens; first and last tokens are special.

    The student pads right and the teacher left.
    """
    torch.manual_seed(seed)
    batch, n, m = len(student_lengths), max(student_lengths), max(student_lengths) + 1
    student_mask, teacher_mask = torch.zeros(batch, n, dtype=torch.int64), torch.zeros(batch, m, dtype=torch.int64)
    student_group, teacher_group = torch.full((batch, n), -1), torch.full((batch, m), -1)
    for row, length in enumerate(student_lengths):
        words = max(length - 2, 0)
        size = length + (words > 0)
        student_mask[row, :length] = 1
        teacher_mask[row, m - size :] = 1
        student_group[row, 1 : 1 + words] = torch.arange(words)
        teacher_group[row, m - size + 1 : m - size + 1 + words] = torch.arange(words)
        if words:
            teacher_group[row, m - 2] = words - 1
    student = StudentView(
        pooled=torch.randn(batch, facts.student_width, requires_grad=True),
        attention_mask=student_mask,
        hidden_states=tuple(torch.randn(batch, n, facts.student_width, requires_grad=True) for _ in range(4)),
        attentions=tuple(maps(batch, 2, student_mask).requires_grad_() for _ in range(3)),
        word_embeddings=torch.randn(batch, n, facts.student_width, requires_grad=True),
    )
    teacher = TeacherView(
        pooled=torch.nn.functional.normalize(torch.randn(batch, facts.teacher_width), dim=-1),
        token_states=torch.randn(batch, m, facts.teacher_width) * teacher_mask[..., None],
        attention_mask=teacher_mask,
        attentions=maps(batch, layers, teacher_mask),
    )
    return Views(
        student=student,
        teacher=teacher,
        text_ids=torch.arange(batch),
        second=torch.randn(batch, facts.student_width, requires_grad=True),
        student_group=student_group,
        teacher_group=teacher_group,
        teacher_word_embeddings=torch.randn(batch, m, facts.teacher_width),
    )


def total(method, views):
    terms = method(views)
    return sum(method.weights[name] * terms[name] for name in method.weights)


def gradients(method, views):
    """Run backward; return every gradient of the student's tensors and the method's parameters."""
    total(method, views).backward()
    student = views.student
    leaves = [student.pooled, views.second, *student.hidden_states, *student.attentions, student.word_embeddings]
    return [leaf.grad for leaf in (*leaves, *method.parameters()) if leaf.grad is not None]


@pytest.mark.parametrize(("name", "form"), EVERYTHING)
def test_every_weight_has_its_term_and_every_term_its_weight(name, form):
    method = make(name, form=form)
    terms = method(make_views())
    assert set(terms) == set(method.weights)
    assert all(value.shape == () and value.isfinite() and value.dtype == torch.float32 for value in terms.values())


@pytest.mark.parametrize(("name", "form"), EVERYTHING)
def test_same_seed_gives_the_same_loss(name, form):
    first, second = (total(make(name, form=form), make_views()) for _ in range(2))
    assert first == second


BATCHES = {
    "one": (7,),
    "two": (7, 5),
    "all_padding": (7, 0, 5),
    "single_tokens": (1, 1, 1),
    "no_words": (2, 2),
    "one_word": (3, 3),
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("name", "form"), EVERYTHING)
def test_loss_and_gradient_are_finite_for_bad_batches(name, form, batch):
    method, views = make(name, form=form), make_views(BATCHES[batch])
    assert total(method, views).isfinite()
    assert all(gradient.isfinite().all() and gradient.abs().max() < 1e4 for gradient in gradients(method, views))


@pytest.mark.parametrize(("name", "form"), EVERYTHING)
def test_loss_and_gradient_are_finite_for_identical_sentences(name, form):
    views = make_views((5, 5, 5))
    with torch.no_grad():
        student = views.student
        for tensor in (student.pooled, views.second, *student.hidden_states, *student.attentions, views.teacher.pooled):
            tensor.copy_(tensor[:1].expand_as(tensor))
        views.text_ids.fill_(0)
    method = make(name, form=form)
    assert all(gradient.isfinite().all() and gradient.abs().max() < 1e4 for gradient in gradients(method, views))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "form"), EVERYTHING)
def test_half_precision_states_under_autocast_are_compared_in_fp32(name, form, dtype):
    method, views = make(name, form=form), make_views()
    student, teacher = views.student, views.teacher
    student.hidden_states = tuple(states.to(dtype) for states in student.hidden_states)
    student.attentions = tuple(layer.to(dtype) for layer in student.attentions)
    student.word_embeddings = student.word_embeddings.to(dtype)
    teacher.token_states, teacher.attentions = teacher.token_states.to(dtype), teacher.attentions.to(dtype)
    outside = method(views)
    with torch.autocast("cpu", torch.bfloat16):
        inside = method(views)
    for name, value in inside.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, outside[name])


@pytest.mark.parametrize(("name", "form"), EVERYTHING)
def test_padding_changes_nothing(name, form):
    method, views = make(name, form=form), make_views()
    wider = make_views()
    student, teacher = wider.student, wider.teacher
    pad = torch.nn.functional.pad
    student.attention_mask = pad(student.attention_mask, (0, 2))
    student.hidden_states = tuple(pad(states, (0, 0, 0, 2), value=9.0) for states in student.hidden_states)
    student.attentions = tuple(pad(layer, (0, 2, 0, 2)) for layer in student.attentions)
    student.word_embeddings = pad(student.word_embeddings, (0, 0, 0, 2), value=9.0)
    wider.student_group = pad(wider.student_group, (0, 2), value=-1)
    teacher.attention_mask = pad(teacher.attention_mask, (3, 0))
    teacher.token_states = pad(teacher.token_states, (0, 0, 3, 0))
    teacher.attentions = pad(teacher.attentions, (3, 0, 3, 0))
    wider.teacher_group = pad(wider.teacher_group, (3, 0), value=-1)
    wider.teacher_word_embeddings = pad(wider.teacher_word_embeddings, (0, 0, 3, 0), value=9.0)
    for term, value in method(wider).items():
        torch.testing.assert_close(value, method(views)[term])


@pytest.mark.parametrize(
    ("name", "form", "keys"),
    [
        ("dskd", "recommended", {"to_teacher.weight", "to_student.weight"}),
        ("cdm", "recommended", {"projection.weight", "sentence_projection.weight"}),
        ("emo", "recommended", {"to_student.weight", "sentence_projection.weight"}),
        ("dskd", "paper", {"to_teacher.weight", "to_student.weight", "link.query.weight"}),
    ],
)
def test_projections_are_there_before_the_first_forward(name, form, keys):
    assert set(make(name, form=form).state_dict()) == keys


@pytest.mark.parametrize(("name", "form"), [(n, f) for n, f in EVERYTHING if (n, f) != ("dskd", "seed")])
def test_every_projection_in_use_learns(name, form):
    method = make(name, form=form)
    gradients(method, make_views())
    unused = {"sentence_projection.weight"} if name == "emo" and form != "recommended" else set()
    for key, parameter in method.named_parameters():
        assert (parameter.grad is not None and parameter.grad.abs().max() > 1e-7) == (key not in unused), key


@pytest.mark.parametrize("name", METHODS)
def test_weight_zero_asks_for_nothing(name):
    tokens = {"dskd": ["token_weight"], "cdm": ["token_weight"], "emo": ["attention_weight", "transport_weight"]}[name]
    method = make(name, task_weight=0.0, **dict.fromkeys(tokens, 0.0))
    assert method.alignment is None
    assert not any(dataclasses.astuple(method.needs))
    views = make_views()
    bare = Views(
        StudentView(views.student.pooled, views.student.attention_mask),
        TeacherView(views.teacher.pooled),
        views.text_ids,
    )
    assert set(method(bare)) == set(method.weights) <= {"sentence", "anchor"}


@pytest.mark.parametrize("name", METHODS)
def test_student_states_of_another_width_are_refused(name):
    views = make_views()
    views.student.hidden_states = (torch.randn(3, 9, 5),)
    with pytest.raises(UserError, match=r"method: expected token states as wide as sentence vectors .*, got 5 and 6"):
        make(name)(views)


@pytest.mark.parametrize("name", METHODS)
def test_zero_distance_to_itself(name):
    facts = Facts(6, 6, 3, 3)
    options = {"attention_weight": 0.0} if name == "emo" else {}
    method, views = make(name, facts, task_weight=0.0, **options), make_views(facts=facts)
    views.teacher.pooled = views.student.pooled.detach()
    views.teacher.token_states = views.student.hidden_states[-1].detach()
    views.teacher.attention_mask, views.teacher_group = views.student.attention_mask, views.student_group
    views.teacher.attentions = views.student.attentions[-1].detach()
    for term, value in method(views).items():
        # at regularisation 0.1 some mass moves to other tokens
        assert value.item() == pytest.approx(0, abs=0.02 if term == "transport" else 1e-5), term


# DSKD


def test_dskd_sentence_term_is_the_distance_in_both_spaces():
    method, views = make("dskd"), make_views()
    student, teacher = views.student.pooled, views.teacher.pooled
    terms, target = method(views), method.to_student(teacher)
    expected = cosine_distance(method.to_teacher(student), teacher) + cosine_distance(student, target)
    torch.testing.assert_close(terms["sentence"], expected)
    torch.testing.assert_close(terms["anchor"], similarity_mse(target, teacher, off_diagonal=True))


def test_dskd_projector_learns_from_the_anchor_alone():
    method, views = make("dskd"), make_views()
    method(views)["sentence"].backward()
    assert method.to_student.weight.grad is None
    method(views)["anchor"].backward()
    assert method.to_student.weight.grad.abs().max() > 1e-4


def test_dskd_anchor_keeps_the_teachers_similarities():
    # 20 unit vectors in 8 dimensions that lie in 6 can be projected to 6 without loss
    method = make("dskd")
    teacher = torch.randn(20, 6) @ torch.linalg.qr(torch.randn(8, 6))[0].T
    optimizer = torch.optim.Adam(method.to_student.parameters(), lr=0.02)
    for _ in range(400):
        loss = similarity_mse(method.to_student(teacher), teacher, off_diagonal=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1e-3


def test_dskd_has_no_projector_to_train_between_equal_widths():
    equal = Facts(8, 8, 3, 6)
    assert "anchor" not in make("dskd", equal).weights and "anchor" in make("dskd").weights
    assert "anchor" in make("dskd", equal, projection="random").weights


def test_dskd_seed_never_trains_its_projector():
    method = make("dskd", form="seed")
    gradients(method, make_views())
    assert "anchor" not in method.weights
    assert [key for key, parameter in method.named_parameters() if parameter.grad is None] == ["to_student.weight"]


def test_dskd_distance_may_be_the_mean_squared_error():
    method, views = make("dskd", distance="mse"), make_views()
    student, teacher = views.student.pooled, views.teacher.pooled
    expected = mse_of_units(method.to_teacher(student), teacher) + mse_of_units(student, method.to_student(teacher))
    torch.testing.assert_close(method(views)["sentence"], expected)


def test_dskd_offsets_compare_groups_in_the_teachers_space():
    method, views = make("dskd"), make_views((4,))
    student, teacher = views.student.hidden_states[-1][0], views.teacher.token_states[0]
    pairs = [(student[1], teacher[1]), (student[2], teacher[2:4].mean(dim=0))]  # [CLS] a b [SEP] | [CLS] a b1 b2 [SEP]
    expected = sum(cosine_distance(method.to_teacher(s), t) for s, t in pairs) / 2
    torch.testing.assert_close(method(views)["token"], expected)


@pytest.mark.parametrize("link", ["word_attention", "state_attention"])
def test_dskd_attention_sees_no_token_outside_groups(link):
    method, views = make("dskd", token_link=link), make_views((4,))
    before = method(views)["token"]
    with torch.no_grad():
        for tensor in (views.student.hidden_states[-1], views.student.word_embeddings):
            tensor[:, [0, 3]] = 7.0
        for tensor in (views.teacher.token_states, views.teacher_word_embeddings):
            tensor[:, [0, 4]] = 7.0
    torch.testing.assert_close(method(views)["token"], before)
    with torch.no_grad():
        views.student.hidden_states[-1][:, 1] = 7.0
    assert abs(method(views)["token"] - before) > 1e-3


def test_dskd_word_attention_equals_a_loop():
    method, views = make("dskd", token_link="word_attention"), make_views((5,))
    words, others = views.student.word_embeddings[0, 1:4], views.teacher_word_embeddings[0, 1:5]
    states, teacher_states = views.student.hidden_states[-1][0, 1:4], views.teacher.token_states[0, 1:5]
    queries = method.link.query(words / words.std(correction=0))
    scores = queries @ (others / others.std(correction=0)).T / 8**0.5
    expected = 0.0
    for i in range(3):
        taken = sum(p * method.to_student(t) for p, t in zip(scores[i].softmax(0), teacher_states, strict=True))
        expected += cosine_distance(states[i], taken) / 3
    for j in range(4):
        taken = sum(p * method.to_teacher(s) for p, s in zip(scores[:, j].softmax(0), states, strict=True))
        expected += cosine_distance(taken, teacher_states[j]) / 4
    torch.testing.assert_close(method(views)["token"], expected)


def test_dskd_word_embeddings_get_no_gradient():
    method, views = make("dskd", form="paper"), make_views()
    gradients(method, views)
    assert views.student.word_embeddings.grad is None
    assert method.link.query.weight.grad.abs().max() > 1e-5


def test_dskd_equal_words_find_each_other_at_the_start():
    method, views = make("dskd", Facts(64, 64, 3, 6), form="paper"), make_views((6,), Facts(64, 64, 3, 6))
    with torch.no_grad():
        method.link.query.weight.copy_(torch.eye(64))
    words = views.student.word_embeddings.detach() * 0.02
    is_word = views.student_group >= 0
    takes, _ = method.link(words, words, is_word, is_word)
    assert takes[0, 1:5].argmax(dim=-1).tolist() == [1, 2, 3, 4]
    assert takes[0, 1:5].amax(dim=-1).min() > 0.9


def test_dskd_word_attention_does_not_move_the_students_target():
    method, views = make("dskd", form="paper"), make_views()
    method(views)["token"].backward()
    assert method.to_student.weight.grad is None
    assert method.to_teacher.weight.grad.abs().max() > 1e-5


def test_dskd_without_word_embeddings_is_refused():
    views = make_views()
    views.teacher_word_embeddings = None
    with pytest.raises(UserError, match=r"method\.token_link: expected both models' word embeddings"):
        make("dskd", form="paper")(views)


def test_dskd_state_attention_equals_a_loop():
    method, views = make("dskd", form="seed"), make_views((5,))
    states, others = views.student.hidden_states[-1][0, 1:4], views.teacher.token_states[0, 1:5]
    expected = 0.0
    for link, own, other in (
        (method.student_from_teacher, states, others),
        (method.teacher_from_student, others, states),
    ):
        scores = (own @ link.query) @ (other @ link.key).T / 6**0.5
        expected += mse_of_units(own, scores.softmax(dim=-1) @ other @ link.value)
    torch.testing.assert_close(method(views)["token"], expected)


# CDM


def test_cdm_reads_the_last_of_several_tokens_of_a_causal_teacher():
    views = make_views((4,))
    student, teacher = views.student.hidden_states[-1][0], views.teacher.token_states[0]
    for causal, state, last in (
        (True, "auto", True),
        (False, "auto", False),
        (True, "mean", False),
        (False, "last", True),
    ):
        method = make("cdm", dataclasses.replace(FACTS, causal_teacher=causal), teacher_state=state)
        word = teacher[3] if last else teacher[2:4].mean(dim=0)
        pairs = ((student[1], teacher[1]), (student[2], word))
        expected = sum(cosine_distance(method.projection(s), t) for s, t in pairs) / 2
        torch.testing.assert_close(method(views)["token"], expected)


def test_cdm_leaves_out_words_that_one_side_has_cut_off():
    method, views = make("cdm"), make_views((5,))
    views.teacher_group[views.teacher_group == 2] = -1
    views.student_group[views.student_group == 0] = -1
    left = method.projection(views.student.hidden_states[-1][0, 2]), views.teacher.token_states[0, 2]
    torch.testing.assert_close(method(views)["token"], cosine_distance(*left))


def test_cdm_seed_has_one_projection_for_tokens_and_sentences():
    shared, separate = make("cdm", form="seed"), make("cdm")
    assert len(list(shared.parameters())) == 1 and len(list(separate.parameters())) == 2


def test_cdm_seed_weighs_the_mean_squared_error_of_tokens_fifty_times():
    method, views = make("cdm", form="seed"), make_views((4,))
    student, teacher = views.student.hidden_states[-1][0], views.teacher.token_states[0]
    pairs = [(student[1], teacher[1]), (student[2], teacher[2:4].mean(dim=0))]
    expected = sum(mse_of_units(method.projection(s), t) for s, t in pairs) / 2
    torch.testing.assert_close(method(views)["token"], expected)
    assert method.weights == {"token": 50.0, "sentence": 1.0, "task": 0.5}


@pytest.mark.parametrize("alignment", ["offsets", "dtw", "weighted_dtw"])
def test_cdm_passes_its_alignment_on(alignment):
    assert make("cdm", alignment=alignment).alignment == alignment


# EMO


def test_emo_more_layers_than_the_student_has_are_refused():
    with pytest.raises(UserError, match=r"method\.num_layers: expected at most the student's 3 layers, got 4"):
        make("emo", num_layers=4)


def test_emo_takes_the_last_of_more_layers_than_it_asked_for():
    method = make("emo")
    many, one = make_views(layers=3), make_views(layers=3)
    one.teacher.attentions = one.teacher.attentions[:, -1:]
    assert method.needs.attention_layers == 1
    torch.testing.assert_close(method(many)["attention"], method(one)["attention"])


def test_emo_two_layers_are_the_mean_of_both():
    views = make_views((9, 8), layers=2)
    both = make("emo", num_layers=2, cka="biased")(views)["attention"]
    single = []
    for layer in (0, 1):
        one = make_views((9, 8), layers=2)
        one.student.attentions = (views.student.attentions[layer + 1],)
        one.teacher.attentions = views.teacher.attentions[:, layer : layer + 1]
        single.append(make("emo", cka="biased")(one)["attention"])
    torch.testing.assert_close(both, (single[0] + single[1]) / 2)


def test_emo_published_attention_compares_the_top_third():
    # 12 student tokens, 10 of them words: the 4 most important of them
    method, views = make("emo", form="paper", num_layers=1), make_views((12,))
    teacher_map = views.teacher.attentions[0, -1]
    share = teacher_map.sum(dim=0).softmax(dim=0)
    mass = torch.stack([*share[1:10], share[10] + share[11]])
    top = mass.argsort(descending=True)[:4]
    student_rows = views.student.attentions[-1][0].mean(dim=0)[1:11][top]
    teacher_rows = torch.cat([teacher_map[1:10], teacher_map[10:12].mean(dim=0, keepdim=True)])[top]
    x, y = (rows - rows.mean(dim=0) for rows in (student_rows, teacher_rows))
    expected = 1 - (x.T @ y).norm() / ((x.T @ x).norm() * (y.T @ y).norm()).sqrt()
    torch.testing.assert_close(method(views)["attention"], expected)


def test_emo_attention_gradient_reaches_the_last_layers_only():
    method, views = make("emo", num_layers=2, cka="biased"), make_views()
    method(views)["attention"].backward()
    assert [layer.grad is not None for layer in views.student.attentions] == [False, True, True]


def test_emo_special_tokens_and_sinks_carry_no_mass_worth_mentioning():
    method, views = make("emo"), make_views((7,))
    with torch.no_grad():
        views.teacher.attentions[:, :, :, [0, 7]] = 100.0  # all look at the first and the last, which are special
    before = method(views)["transport"]
    with torch.no_grad():
        views.student.hidden_states[-1][:, [0, 6]] = 5.0
    assert abs(method(views)["transport"] - before) < 5e-3


def test_emo_transport_without_attention_still_asks_for_the_teachers_last_map():
    method = make("emo", attention_weight=0.0)
    assert method.needs.attention_layers == 1 and method.alignment == "offsets"
    torch.testing.assert_close(method(make_views())["transport"], make("emo")(make_views())["transport"])


def test_emo_sentences_of_padding_do_not_count():
    method, views = make("emo"), make_views((6, 0))
    alone = make_views((6, 0))
    for side in (alone.student, alone.teacher):
        for field in dataclasses.fields(side):
            value = getattr(side, field.name)
            if isinstance(value, torch.Tensor):
                setattr(side, field.name, value[:1])
    alone.student.hidden_states = tuple(states[:1] for states in alone.student.hidden_states)
    alone.student.attentions = tuple(layer[:1] for layer in alone.student.attentions)
    alone.student_group, alone.teacher_group = alone.student_group[:1], alone.teacher_group[:1]
    alone.second, alone.text_ids = alone.second[:1], alone.text_ids[:1]
    for term in ("transport", "attention"):
        torch.testing.assert_close(method(views)[term], method(alone)[term])


def test_emo_transport_falls_when_states_come_closer():
    facts, values = Facts(8, 8, 3, 6), []
    for share in (0.0, 0.5, 1.0):
        close = make_views((4, 6), facts)
        states = close.student.hidden_states[-1].detach().clone()
        for row in range(2):
            for number in range(int(close.student_group[row].max()) + 1):
                target = close.teacher.token_states[row, close.teacher_group[row] == number].mean(dim=0)
                where = close.student_group[row] == number
                states[row, where] = share * target + (1 - share) * states[row, where]
        close.student.hidden_states = (states,)
        values.append(make("emo", facts)(close)["transport"].item())
    assert values[0] > values[1] > values[2]


@pytest.mark.parametrize("option", [{"importance": "softmax"}, {"cost": "softmax"}, {"sinkhorn_regularisation": 1.0}])
def test_emo_option_changes_the_transport(option):
    views = make_views()
    assert abs(make("emo", **option)(views)["transport"] - make("emo")(views)["transport"]) > 1e-3


@pytest.mark.parametrize("option", [{"cka": "biased"}, {"rows": "top_third", "cka": "biased"}, {"num_layers": 3}])
def test_emo_option_changes_the_attention_term(option):
    views = make_views((12, 12, 12))
    assert abs(make("emo", **option)(views)["attention"] - make("emo")(views)["attention"]) > 1e-3


def test_emo_loss_of_32_sentences_is_fast():
    facts = Facts(384, 384, 3, 6)
    method, views = make("emo", facts), make_views((24,) * 32, facts, layers=1)
    fastest = float("inf")
    for _ in range(3):
        start = time.process_time()
        total(method, views).backward()
        fastest = min(fastest, time.process_time() - start)
    assert fastest < 0.25  # 0.03 s on one quiet core


def on_device(value, device):
    """Move every tensor of nested dataclasses and tuples."""
    if isinstance(value, torch.Tensor):
        return value.detach().to(device).requires_grad_(value.requires_grad)
    if isinstance(value, tuple | list):
        return type(value)(on_device(entry, device) for entry in value)
    if dataclasses.is_dataclass(value):
        fields = {f.name: on_device(getattr(value, f.name), device) for f in dataclasses.fields(value)}
        return type(value)(**fields)
    return value


@pytest.mark.parametrize(("name", "form"), EVERYTHING)
def test_step_reads_no_number_and_stays_on_its_device(name, form, monkeypatch):
    # tensors of this device have no numbers: reading one, as .item() does, fails, and so does a tensor on the CPU
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # there is none for it
    method, views = make(name, form=form).to("meta"), on_device(make_views(), "meta")
    gradients(method, views)
    assert views.student.pooled.grad.shape == views.student.pooled.shape
