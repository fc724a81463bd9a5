"""The methods that compare tokens, and batches for them."""

import torch

from kdkit.config.methods import Cdm, Dskd, Emo
from kdkit.embeddings.methods.base import BatchViews, PairFacts, StudentView
from kdkit.embeddings.methods.cdm import CdmMethod
from kdkit.embeddings.methods.dskd import DskdMethod
from kdkit.embeddings.methods.emo import EmoMethod
from kdkit.embeddings.teacher.answers import TeacherView

FACTS = PairFacts(student_width=6, teacher_width=8, student_layers=3, teacher_layers=6)


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
    return BatchViews(
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
