"""Methods that compare sentence vectors: TALAS, Stella, and the simple ones that they must beat.

A method is a module: its projections are its parameters, made in the constructor, and it turns what student and
teacher say of a batch into terms. The loss is the sum of the terms times `weights`. Those that compare tokens are in
`dskd`, `cdm` and `emo`.

Shapes: b sentences, s student width, t teacher width.
"""

import torch
from torch import nn

from kdkit.distill.embedding_losses import (
    cosine_distance,
    info_nce,
    layer_similarity,
    mse_of_units,
    ranking_loss,
    rkd_angle,
    rkd_distance,
    similarity_kl,
    similarity_mse,
    unit,
)
from kdkit.distill.embedding_views import Facts, Needs, Views
from kdkit.distill.projections import make_projection
from kdkit.errors import UserError
from kdkit.method_settings import Cosine, LayerReduction, Leaf, Rkd, SimilarityKL, Stella, Talas, TaskOnly

Terms = dict[str, torch.Tensor]


class SentenceMethod(nn.Module):
    """What the methods of this module share: the contrastive task, and no tokens.

    InfoNCE needs a second view of every sentence; with weight 0 it is not made.
    """

    alignment: str | None = None

    def __init__(self, settings: Cosine | Talas | Stella, weights: dict[str, float]):
        super().__init__()
        self.settings = settings
        self.weights = {name: value for name, value in weights.items() if value}
        if settings.task_weight:
            self.weights["task"] = settings.task_weight
        self.needs = Needs(second=bool(settings.task_weight))

    def forward(self, views: Views) -> Terms:
        """Return the raw terms of a batch."""
        terms = self.compare(views)
        if "task" in self.weights:
            temperature = self.settings.task_temperature
            ids = views.text_ids, views.second_ids
            terms["task"] = info_nce(views.student.pooled, views.second, temperature, *ids)
        return terms

    def compare(self, views: Views) -> Terms:
        """Return the terms that compare the student with its teacher."""
        raise NotImplementedError

    def kept_head(self) -> nn.Linear | None:
        """Return the projection that stays in the student; None: its vectors are used as they are."""
        return None

    def other_heads(self) -> list[nn.Linear]:
        """Return projections that are saved beside it, for vectors of other widths."""
        return []


class TalasMethod(SentenceMethod):
    """TALAS: the last layers are drawn to the teacher's vector, lower layers to the similarities of upper ones.

        anchor     weighted mean over the last K layers of 1 - cos(W_l e_l, t)
        structure  mean over layers of ||R_(l+1) - R_l||^2,  R_l = the b x b cosines of layer l

    Trained with (A)SAM by the trainer. Where the publication, as far as it could be read, and the seed differ,
    `form` chooses: the seed's first token and layer 0, where all sentences are alike, draw the student towards one
    point (measured: mean cosine 0.71 -> 0.94 in 60 steps).

    Source: arXiv 2606.21851 (ACL 2026), eq. of TAMD and LASD as given by its authors' code.
    """

    def __init__(self, settings: Talas, facts: Facts):
        super().__init__(settings, {"anchor": settings.anchor_weight, "structure": settings.structure_weight})
        if settings.num_anchor_layers > facts.student_layers:
            raise UserError(
                f"method.num_anchor_layers: expected at most the student's {facts.student_layers} layers, got "
                f"{settings.num_anchor_layers}; lower it"
            )
        if settings.structure_weight and settings.structure_first_layer >= facts.student_layers:
            raise UserError(
                f"method.structure_first_layer: expected less than the student's {facts.student_layers} layers, got "
                f"{settings.structure_first_layer}; two layers are compared"
            )
        self.needs = Needs(second=bool(settings.task_weight), layers=True)
        lower = range(settings.num_anchor_layers - 1)
        self.projections = nn.ModuleList(
            [nn.Linear(facts.student_width, facts.teacher_width, bias=False) for _ in lower]
            + [make_projection(settings.projection, facts.student_width, facts.teacher_width)]
        )

    def compare(self, views: Views) -> Terms:
        """Return `anchor` and `structure`."""
        layers = views.student.layers
        anchored = zip(self.projections, layers[-len(self.projections) :], strict=True)
        distances = [cosine_distance(projection(layer), views.teacher.pooled) for projection, layer in anchored]
        weights = [self.settings.lower_anchor_weight] * (len(distances) - 1) + [1.0]
        terms = {"anchor": sum(w * d for w, d in zip(weights, distances, strict=True)) / sum(weights)}
        if "structure" in self.weights:
            settings = self.settings
            terms["structure"] = layer_similarity(
                layers[settings.structure_first_layer :], settings.structure_reduction, settings.structure_detach_upper
            )
        return terms


class StellaMethod(SentenceMethod):
    """Stella: the teacher's vector, its similarities, and their order, also for the first numbers of the vector.

        cosine      1 - cos(h, t),  h = W s
        similarity  mean over pairs of (h_i . h_j - t_i . t_j)^2
        ranking     mean of max(0, h_m . h_n - h_i . h_j + margin) where t_i . t_j > t_m . t_n

    Smaller widths learn similarity and ranking only.

    Source: Zhang et al. 2024, arXiv 2412.19048, eq. 1-4.

    Raises:
        UserError: a smaller width beyond the teacher's, where it is a part of the same vector.
    """

    def __init__(self, settings: Stella, facts: Facts):
        weights = {
            "cosine": settings.cosine_weight,
            "similarity": settings.similarity_weight,
            "ranking": settings.ranking_weight,
        }
        if settings.dimensions:
            weights |= {f"small_{name}": settings.small_weight * weights[name] for name in ("similarity", "ranking")}
        super().__init__(settings, weights)
        too_wide = [width for width in settings.dimensions if width > facts.teacher_width]
        if too_wide and not settings.separate_heads:
            raise UserError(
                f"method.dimensions: expected widths up to the teacher's {facts.teacher_width}, got {too_wide[0]}; "
                "set others, or separate_heads"
            )
        self.head = nn.Linear(facts.student_width, facts.teacher_width, bias=False)
        widths = settings.dimensions if settings.separate_heads else []
        self.small_heads = nn.ModuleList(nn.Linear(facts.student_width, width, bias=False) for width in widths)
        self.trains_small_widths = True

    def compare(self, views: Views) -> Terms:
        """Return `cosine`, `similarity`, `ranking`, and the means of the last two over the smaller widths."""
        pooled, teacher = views.student.pooled, views.teacher.pooled
        large = self.head(pooled)
        terms = {"cosine": cosine_distance(large, teacher)}
        terms |= self._relations(large, teacher, views.text_ids)
        widths = self.settings.dimensions if self.trains_small_widths else []
        small = [head(pooled) for head in self.small_heads] or [large[:, :width] for width in widths]
        if widths:
            reference = large if self.settings.small_reference == "head" else teacher
            relations = [self._relations(vectors, reference, views.text_ids) for vectors in small]
            terms |= {f"small_{k}": torch.stack([terms_[k] for terms_ in relations]).mean() for k in relations[0]}
        return {name: value for name, value in terms.items() if name in self.weights}

    def _relations(self, vectors: torch.Tensor, reference: torch.Tensor, text_ids: torch.Tensor) -> Terms:
        """Compare similarities and their order with those of a reference."""
        student, teacher = unit(vectors), unit(reference)
        settings = self.settings
        ranking = ranking_loss(student, teacher, settings.margin, settings.max_comparisons, text_ids)
        return {"similarity": similarity_mse(student, teacher), "ranking": ranking}

    def kept_head(self) -> nn.Linear | None:
        """Return the large head, unless it is thrown away."""
        return self.head if self.settings.keep_head else None

    def other_heads(self) -> list[nn.Linear]:
        """Return the heads of the smaller widths, unless they are thrown away."""
        return list(self.small_heads) if self.settings.keep_head else []


class CosineMethod(SentenceMethod):
    """1 - cos(W s, t): EmbedDistill (arXiv 2301.12005), without W where the widths are equal."""

    def __init__(self, settings: Cosine, facts: Facts):
        super().__init__(settings, {"cosine": 1.0})
        self.projection = make_projection(settings.projection, facts.student_width, facts.teacher_width)

    def compare(self, views: Views) -> Terms:
        """Return `cosine`."""
        return {"cosine": cosine_distance(self.projection(views.student.pooled), views.teacher.pooled)}


class RkdMethod(SentenceMethod):
    """Relational distillation: distances of pairs and angles of triples, which need no projection.

    Source: Park et al. 2019, arXiv 1904.05068, eq. 5-8.
    """

    def __init__(self, settings: Rkd, facts: Facts):
        super().__init__(settings, {"distance": settings.distance_weight, "angle": settings.angle_weight})

    def compare(self, views: Views) -> Terms:
        """Return `distance` and `angle`."""
        student, teacher = unit(views.student.pooled), unit(views.teacher.pooled)
        terms = {"distance": rkd_distance(student, teacher), "angle": rkd_angle(student, teacher)}
        return {name: value for name, value in terms.items() if name in self.weights}


class LeafMethod(SentenceMethod):
    """LEAF: squared distance of W s to the teacher's unit vector, and W stays in the student.

    Its vectors have the teacher's width and can be compared with the teacher's own: a small model for the queries, the
    large one for the documents. Between equal widths that costs 0.4 points against plain cosine (120 steps, mean of
    seven tasks and three seeds, benchmarks/embedding_methods.py).

    Source: arXiv 2509.12539.
    """

    def __init__(self, settings: Leaf, facts: Facts):
        super().__init__(settings, {"distance": 1.0})
        self.head = nn.Linear(facts.student_width, facts.teacher_width, bias=False)

    def compare(self, views: Views) -> Terms:
        """Return `distance`: summed over the width, averaged over the batch."""
        difference = self.head(views.student.pooled).float() - views.teacher.pooled
        return {"distance": difference.square().sum(-1).mean()}

    def kept_head(self) -> nn.Linear | None:
        """Return W, unless it is thrown away."""
        return self.head if self.settings.keep_head else None


class SimilarityKLMethod(SentenceMethod):
    """KL(teacher || student) between the softmax similarities of every sentence to the others of the batch.

    It needs no projection, whatever the widths. It ranks sentence pairs better than plain cosine (STS-B +0.2) and
    classifies worse (Emotion -2): 0.3 points less on the average (120 steps, three seeds,
    benchmarks/embedding_methods.py).
    """

    def __init__(self, settings: SimilarityKL, facts: Facts):
        super().__init__(settings, {"kl": 1.0})

    def compare(self, views: Views) -> Terms:
        """Return `kl`."""
        settings = self.settings
        loss = similarity_kl(
            views.student.pooled,
            views.teacher.pooled,
            student_temperature=settings.student_temperature,
            teacher_temperature=settings.teacher_temperature,
        )
        return {"kl": loss}


class LayerReductionMethod(SentenceMethod):
    """Mean squared error between unit vectors, sentence-transformers' recipe for a student cut out of its teacher.

    It is 2 / t times 1 - cos: with Adam the same but for weight decay, clipping and the optimizer's epsilon.
    """

    def __init__(self, settings: LayerReduction, facts: Facts):
        super().__init__(settings, {"mse": 1.0})
        self.projection = make_projection(settings.projection, facts.student_width, facts.teacher_width)

    def compare(self, views: Views) -> Terms:
        """Return `mse`."""
        return {"mse": mse_of_units(self.projection(views.student.pooled), views.teacher.pooled)}


class TaskMethod(SentenceMethod):
    """The contrastive loss alone: what the sentences teach without a teacher."""

    def __init__(self, settings: TaskOnly, facts: Facts):
        super().__init__(settings, {})

    def compare(self, views: Views) -> Terms:
        """Return nothing: there is no teacher."""
        return {}
