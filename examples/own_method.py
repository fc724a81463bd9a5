"""An embedding method of your own: its projections are its parameters, `compare` returns its terms."""

import torch
from torch import nn

from kdkit.config.methods import Cosine
from kdkit.embeddings.methods.base import BatchViews, SentenceMethod, StudentView
from kdkit.embeddings.teacher.answers import TeacherView
from kdkit.losses import cosine_distance, rkd_distance


class CosineAndDistances(SentenceMethod):
    """The teacher's vector through a projection, and the distances between sentences without one."""

    def __init__(self, student_width, teacher_width):
        super().__init__(Cosine(task_weight=0.0), {"cosine": 1.0, "distance": 2.0})
        self.projection = nn.Linear(student_width, teacher_width, bias=False)

    def compare(self, views):
        student, teacher = views.student.pooled, views.teacher.pooled
        cosine = cosine_distance(self.projection(student), teacher)
        return {"cosine": cosine, "distance": rkd_distance(student, teacher)}


torch.manual_seed(0)
features, teacher_vectors = torch.randn(32, 24), torch.randn(32, 12)
student, method = nn.Linear(24, 8), CosineAndDistances(8, 12)
optimizer = torch.optim.AdamW([*student.parameters(), *method.parameters()], lr=3e-2)
for step in range(41):
    view = StudentView(student(features), torch.ones(32, 1))
    views = BatchViews(view, TeacherView(teacher_vectors), torch.arange(32))
    terms = method(views)
    loss = sum(method.weights[name] * value for name, value in terms.items())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step:2} ", " ".join(f"{name} {value.item():.3f}" for name, value in terms.items()))
