"""DSKD: the student compared with its teacher in the teacher's vector space and in its own."""

import torch

from kdkit.config.methods import Dskd
from kdkit.embeddings.methods.base import BatchViews, MethodNeeds, PairFacts, Start, make_projection
from kdkit.embeddings.methods.cross_attention import StateAttention, WordAttention
from kdkit.embeddings.methods.token_method import Terms, TokenMethod, group_states, token_states
from kdkit.errors import UserError
from kdkit.losses.precision import at_least_fp32
from kdkit.losses.sentences import similarity_mse
from kdkit.losses.tokens import vector_distance


class DskdMethod(TokenMethod):
    """DSKD, adapted to embedding models: what the publication does with logits is done with vectors.

        sentence  mean of 1 - cos(W_st s, t) + 1 - cos(s, sg(W_ts t))
        anchor    mean over pairs of (cos(u_i, u_j) - cos(t_i, t_j))^2,  u = W_ts t
        token     distance of tokens that belong together, by `token_link`

    `anchor` (weight `sentence_weight`) trains W_ts, for which the publication uses the cross-entropy of the teacher's
    projected states: the student's target keeps the teacher's similarities. Without it (`seed`) W_ts stays as random
    as it began. Between equal widths and `projection: auto` there is one space only, and both halves are the same.

    Token links:
        offsets          mean over groups of 1 - cos(W_st S_g, T_g)
        word_attention   (paper) attention between word embeddings, with a learned query. Student tokens take W_ts T
                         by it, which is their fixed target; teacher tokens take W_st S, which has their own states as
                         target and so trains query and W_st.
        state_attention  (seed) each side takes the other's states by attention with a query, key and value of its
                         own. As nothing is held fixed, the student's half has solutions that depend in nothing on
                         the teacher, all states equal for one.
    Tokens without a counterpart, such as special ones and a prompt, take no part in any of them.

    Source: Zhang et al. 2024, arXiv 2406.17328 (EMNLP 2024); seed: its dual-space criterion.

    Raises:
        UserError: `word_attention` without the teacher's word embeddings.
    """

    def __init__(self, settings: Dskd, facts: PairFacts):
        """Build both projections and the link; see `start_projection` for their first values."""
        compares_tokens = settings.token_weight > 0
        link = settings.token_link if compares_tokens else "none"
        weights = {"sentence": settings.sentence_weight, "token": settings.token_weight}
        student, teacher = facts.student_width, facts.teacher_width
        to_student = make_projection(settings.projection, teacher, student)
        if settings.train_student_space and any(True for _ in to_student.parameters()):
            weights["anchor"] = settings.sentence_weight  # nothing is to be trained between equal widths
        super().__init__(
            settings,
            facts,
            weights,
            "offsets" if compares_tokens else None,
            MethodNeeds(
                tokens=compares_tokens, second=settings.task_weight > 0, word_embeddings=link == "word_attention"
            ),
        )
        self.to_teacher, self.to_student = make_projection(settings.projection, student, teacher), to_student
        if link == "word_attention":
            self.link = WordAttention(student, teacher)
        elif link == "state_attention":
            self.student_from_teacher = StateAttention(teacher, student)
            self.teacher_from_student = StateAttention(student, teacher)

    def starts(self, teacher: torch.Tensor, layers: list[torch.Tensor]) -> list[Start]:
        """Fit W_st to the teacher's vectors and W_ts to the student's; see `SentenceMethod.starts`."""
        how, student = self.settings.projection, layers[-1]
        return [Start(self.to_teacher, how, teacher, student), Start(self.to_student, how, student, teacher)]

    def compare_tokens(self, views: BatchViews) -> Terms:
        """Return `sentence`, `anchor` and `token`."""
        distance, terms = self.settings.distance, {}
        student, teacher = views.student.pooled, views.teacher.pooled
        if "sentence" in self.weights:
            target = self.to_student(teacher)
            terms["sentence"] = vector_distance(self.to_teacher(student), teacher, distance)
            terms["sentence"] = terms["sentence"] + vector_distance(student, target.detach(), distance)
            if "anchor" in self.weights:
                terms["anchor"] = similarity_mse(target, teacher, off_diagonal=True)
        if "token" in self.weights:
            compare = {
                "offsets": self._by_offsets,
                "word_attention": self._by_words,
                "state_attention": self._by_states,
            }
            terms["token"] = compare[self.settings.token_link](views)
        return terms

    def _by_offsets(self, views: BatchViews) -> torch.Tensor:
        states = group_states(views)
        return vector_distance(self.to_teacher(states.student), states.teacher, self.settings.distance, states.mask)

    def _by_words(self, views: BatchViews) -> torch.Tensor:
        if views.student.word_embeddings is None or views.teacher_word_embeddings is None:
            raise UserError(
                "method.token_link: expected both models' word embeddings for 'word_attention', got none; choose "
                "'offsets'"
            )
        words = at_least_fp32(views.student.word_embeddings), at_least_fp32(views.teacher_word_embeddings)
        takes, gives = self.link(*words, views.student_group >= 0, views.teacher_group >= 0)
        student, teacher = token_states(views)
        return self._token_distances(
            views, (takes @ self.to_student(teacher)).detach(), gives @ self.to_teacher(student)
        )

    def _by_states(self, views: BatchViews) -> torch.Tensor:
        student, teacher = token_states(views)
        return self._token_distances(
            views,
            self.student_from_teacher(student, teacher, views.teacher_group >= 0),
            self.teacher_from_student(teacher, student, views.student_group >= 0),
        )

    def _token_distances(self, views: BatchViews, for_student: torch.Tensor, for_teacher: torch.Tensor) -> torch.Tensor:
        """Compare all aligned tokens of both models with what they take from the other.

        Args:
            for_student: `[B, S, H_student]`.
            for_teacher: `[B, T, H_teacher]`.
        """
        student, teacher = token_states(views)
        distance = self.settings.distance
        in_student = vector_distance(student, for_student, distance, views.student_group >= 0)
        return in_student + vector_distance(for_teacher, teacher, distance, views.teacher_group >= 0)
