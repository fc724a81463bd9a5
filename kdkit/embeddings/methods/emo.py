"""EMO: attention maps compared by centered kernel alignment (CKA), token states by optimal transport."""

import torch

from kdkit.config.methods import Emo
from kdkit.embeddings.methods.base import BatchViews, MethodNeeds, PairFacts, Start, make_projection
from kdkit.embeddings.methods.token_method import Terms, TokenMethod, num_groups, token_states
from kdkit.errors import UserError
from kdkit.losses.cross_entropy import masked_mean
from kdkit.losses.precision import at_least_fp32
from kdkit.losses.sentences import cosine_distance
from kdkit.losses.tokens import attention_distance, group_weights, importance, most_important
from kdkit.losses.transport import carry_masses, sinkhorn, token_costs, transport_cost


class EmoMethod(TokenMethod):
    """EMO: token states are moved to the teacher's at the least cost, attention maps are drawn to the teacher's.

        transport  mean over sentences of <P, C>: C the cost between S_i and W T_j, P the Sinkhorn plan between the
                   teacher's tokens, weighed by their importance, and the student's, which inherit it
        attention  mean over layers and sentences of 1 - CKA of the attention rows of aligned tokens
        sentence   mean of 1 - cos(W' s, t), ours: without it S and W T may meet at one point

    `paper` and `seed` follow the authors' code: importance and student masses by softmax, the most important third of
    the aligned tokens, the root of the biased CKA, a softmax as cost; single tokens of the nearest spelling. There
    the attention term is a sum over the batch, here a mean, and the gradient runs through all iterations, here it
    takes the plan as given, which is the same once it has converged.

    Source: Truong et al. 2025, EMNLP 2025 main 385.

    Raises:
        UserError: more layers than the student has.
    """

    def __init__(self, settings: Emo, facts: PairFacts):
        """Build the projections W and W'; see `start_projection` for their first values."""
        if settings.num_layers > facts.student_layers:
            raise UserError(
                f"method.num_layers: expected at most the student's {facts.student_layers} layers, got "
                f"{settings.num_layers}; lower it"
            )
        compares_attention, transports = settings.attention_weight > 0, settings.transport_weight > 0
        # importance is read from the teacher's last layer, whose map belongs to the student's last
        num_maps = settings.num_layers if compares_attention else int(transports)
        super().__init__(
            settings,
            facts,
            {
                "attention": settings.attention_weight,
                "transport": settings.transport_weight,
                "sentence": settings.sentence_weight,
            },
            settings.alignment if num_maps else None,
            MethodNeeds(tokens=num_maps > 0, attention_layers=num_maps, second=settings.task_weight > 0),
        )
        student, teacher = facts.student_width, facts.teacher_width
        self.to_student = make_projection(settings.projection, teacher, student)
        self.sentence_projection = make_projection(settings.projection, student, teacher)

    def starts(self, teacher: torch.Tensor, layers: list[torch.Tensor]) -> list[Start]:
        """Fit W to the student's vectors and W' to the teacher's; see `SentenceMethod.starts`."""
        how, student = self.settings.projection, layers[-1]
        return [Start(self.to_student, how, student, teacher), Start(self.sentence_projection, how, teacher, student)]

    def compare_tokens(self, views: BatchViews) -> Terms:
        """Return `attention`, `transport` and `sentence`."""
        terms = {}
        if "sentence" in self.weights:
            terms["sentence"] = cosine_distance(self.sentence_projection(views.student.pooled), views.teacher.pooled)
        if self.needs.attention_layers:
            maps, mask = views.teacher.attentions, views.teacher.attention_mask
            masses = importance(maps[:, -1], mask, self.settings.importance, views.teacher_group >= 0)
            if "attention" in self.weights:
                terms["attention"] = self._attention(views, masses)
            if "transport" in self.weights:
                terms["transport"] = self._transport(views, masses)
        return terms

    def _attention(self, views: BatchViews, masses: torch.Tensor) -> torch.Tensor:
        """Compare the attention rows of aligned tokens; masses: `[B, T]`, importance of the teacher's tokens."""
        settings, groups = self.settings, num_groups(views)
        of_student, of_teacher = (group_weights(group, groups) for group in (views.student_group, views.teacher_group))
        mask = of_student.any(dim=-1) & of_teacher.any(dim=-1)
        if settings.rows == "top_third":
            mass = ((of_teacher > 0) * masses[:, None]).sum(dim=-1)
            third = views.student.attention_mask.sum(dim=-1) // 3
            mask = most_important(mass, mask, third.clamp(min=1))
        layers = views.student.attentions[-settings.num_layers :]
        student_maps = torch.stack([at_least_fp32(layer).mean(dim=1) for layer in layers], dim=1)
        teacher_maps = at_least_fp32(views.teacher.attentions[:, -settings.num_layers :])
        return attention_distance(
            of_student[:, None].to(student_maps.dtype) @ student_maps,
            of_teacher[:, None].to(teacher_maps.dtype) @ teacher_maps,
            mask,
            settings.cka,
        )

    def _transport(self, views: BatchViews, masses: torch.Tensor) -> torch.Tensor:
        """Move the student's token states to the teacher's; masses: `[B, T]`."""
        settings, (student, teacher) = self.settings, token_states(views)
        weights = group_weights(views.student_group, num_groups(views))
        mask = views.student.attention_mask
        student_masses = carry_masses(masses, weights, views.teacher_group, mask, settings.importance)
        cost = token_costs(student, self.to_student(teacher), views.teacher.attention_mask, settings.cost)
        plan = sinkhorn(cost, student_masses, masses, settings.sinkhorn_regularisation, settings.sinkhorn_iterations)
        return masked_mean(transport_cost(cost, plan), mask.any(dim=-1))
