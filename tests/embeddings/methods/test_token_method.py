"""What DSKD, CDM and EMO have in common: terms, precision, padding, which parameters learn, and bad batches."""

import contextlib
import dataclasses

import pytest
import torch

from kdkit.embeddings.methods.base import BatchViews, PairFacts, StudentView
from kdkit.embeddings.teacher.answers import TeacherView
from kdkit.errors import UserError
from tests.embeddings.methods.token_views import EVERYTHING, METHODS, gradients, make, make_views, total


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
    bare = BatchViews(
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
    facts = PairFacts(6, 6, 3, 3)
    options = {"attention_weight": 0.0} if name == "emo" else {}
    method, views = make(name, facts, task_weight=0.0, **options), make_views(facts=facts)
    views.teacher.pooled = views.student.pooled.detach()
    views.teacher.token_states = views.student.hidden_states[-1].detach()
    views.teacher.attention_mask, views.teacher_group = views.student.attention_mask, views.student_group
    views.teacher.attentions = views.student.attentions[-1].detach()
    for term, value in method(views).items():
        # at regularisation 0.1 some mass moves to other tokens
        assert value.item() == pytest.approx(0, abs=0.02 if term == "transport" else 1e-5), term


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
