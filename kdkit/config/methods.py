"""The methods of embedding distillation and their options.

A method is written as its name (`method: talas`) or with options (`method: {name: talas, form: paper}`). `form` sets
a group of options at once, and single options change it further: `recommended` is ours, `paper` and `seed` follow
the publication and the source document that asked for the method. Where they differ, and why, stands at the loss;
what they cost, in docs/results.md: as published, `talas` and `emo` end below a student that was never trained.
"""

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field

from kdkit.config.method_base import Method, ProjectedMethod
from kdkit.config.ranking.late_interaction import LateInteraction
from kdkit.config.types import Count, NotNegative, Positive


class Talas(ProjectedMethod):
    """Teacher-anchored layers, agreement of consecutive layers, a flat minimum (arXiv 2606.21851)."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "task_weight": 0.001,
            "lower_anchor_weight": 1.0,
            "structure_weight": 1.0,
            "structure_reduction": "sum",
            "sharpness": "asam",
            "rho": 0.5,
        },
        "seed": {
            "task_weight": 0.001,
            "task_temperature": 0.1,
            "lower_anchor_weight": 1.0,
            "structure_weight": 1.0,
            "structure_reduction": "mean",
            "structure_first_layer": 0,
            "structure_detach_upper": False,
            "layer_pooling": "cls",
            "projection": "random",
            "sharpness": "asam",
            "rho": 0.05,
            "eta": 0.0,
        },
    }
    name: Literal["talas"] = "talas"
    task_weight: NotNegative = 0.001
    task_temperature: Positive = 0.05
    anchor_weight: NotNegative = 0.75
    """Weight of the distance between projected layers and the teacher's vector (TAMD)."""
    structure_weight: NotNegative = 0.05
    """Weight of the difference between the similarities of consecutive layers (LASD); the publication's is 1."""
    num_anchor_layers: Count = 2
    """Last layers that are anchored to the teacher."""
    lower_anchor_weight: NotNegative = 0.3
    """Weight of such a layer below the last, whose own is 1."""
    structure_first_layer: Annotated[int, Field(ge=0)] = 1
    """First layer whose similarities count; 0 is the embedding layer."""
    structure_reduction: Literal["off_diagonal", "mean", "sum"] = "off_diagonal"
    """Over the entries of the B x B matrix: their mean off the diagonal, of all, or their sum."""
    structure_detach_upper: bool = True
    """Let the upper layer guide the lower, and not the other way round."""
    layer_pooling: Literal["own", "cls"] = "own"
    """How the layers are pooled: as the student's last, or by the first token."""
    sharpness: Literal["none", "sam", "asam"] = "asam"
    """Seek a flat minimum: a second pass per step, at weights moved uphill."""
    rho: Positive = 0.1
    """Length of that move; ten times larger for `asam` than for `sam`."""
    eta: NotNegative = 0.01
    """Added to the weights' sizes by `asam`, so that zeros move too."""


class Dskd(ProjectedMethod):
    """Both vector spaces: student in the teacher's and teacher in the student's (arXiv 2406.17328)."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"token_weight": 1.0, "token_link": "word_attention"},
        "seed": {
            "token_weight": 1.0,
            "token_link": "state_attention",
            "task_temperature": 0.07,
            "projection": "random",
            "distance": "mse",
            "train_student_space": False,
        },
    }
    name: Literal["dskd"] = "dskd"
    task_weight: NotNegative = 1.0
    sentence_weight: NotNegative = 1.0
    """Weight of the sentence vectors' distances in both spaces, and of what trains the teacher's projector."""
    token_weight: NotNegative = 0.5
    """Weight of the distances of token states."""
    token_link: Literal["offsets", "word_attention", "state_attention"] = "offsets"
    """Which tokens belong together: those over the same characters; or cross-model attention from word embeddings
    (paper) or from token states (seed)."""
    distance: Literal["cosine", "mse"] = "cosine"
    """1 - cos, or the mean squared difference of unit vectors, which is 2 / width times that."""
    train_student_space: bool = True
    """Train the teacher's projector into the student's space; false: the seed, where nothing reaches it."""


class Cdm(ProjectedMethod):
    """Tokens mapped dynamically between two tokenizers (arXiv 2502.11104)."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"alignment": "weighted_dtw"},
        "seed": {
            "alignment": "dtw",
            "task_temperature": 0.07,
            "token_weight": 50.0,
            "distance": "mse",
            "share_projection": True,
            "projection": "random",
            "projection_lr_multiplier": 2.0,
        },
    }
    name: Literal["cdm"] = "cdm"
    task_weight: NotNegative = 0.5
    token_weight: NotNegative = 0.5
    """Weight of the mapped token states' distance."""
    sentence_weight: NotNegative = 1.0
    """Weight of the sentence vectors' distance."""
    alignment: Literal["offsets", "dtw", "weighted_dtw"] = "offsets"
    """Which tokens belong together: those over the same characters, or time warping over their spelling, also
    weighed by how much each token matters."""
    teacher_state: Literal["auto", "mean", "last"] = "auto"
    """State of several teacher tokens: their mean, or the last, which alone has read the whole word in a causal
    teacher; `auto` decides by that."""
    distance: Literal["cosine", "mse"] = "cosine"
    """See `dskd`."""
    share_projection: bool = False
    """One projection for tokens and sentences."""


EMO_PAPER = {
    "attention_weight": 0.05,
    "transport_weight": 0.5,
    "sentence_weight": 0.0,
    "alignment": "edit_distance",
    "importance": "softmax",
    "num_layers": 2,
    "cka": "biased",
    "rows": "top_third",
    "cost": "softmax",
    "sinkhorn_iterations": 100,
}
"""Options of the publication."""


class Emo(ProjectedMethod):
    """Attention maps by CKA, token states by optimal transport (EMNLP 2025 main 385)."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": EMO_PAPER,
        "seed": EMO_PAPER | {"num_layers": 1, "projection": "random"},
    }
    name: Literal["emo"] = "emo"
    task_weight: NotNegative = 0.5
    attention_weight: NotNegative = 0.1
    """Weight of 1 - CKA of the attention maps."""
    transport_weight: NotNegative = 1.0
    """Weight of the cost of moving the student's token states to the teacher's."""
    sentence_weight: NotNegative = 1.0
    """Weight of the sentence vectors' distance; not in the paper, without it token states may meet at one point."""
    alignment: Literal["offsets", "edit_distance"] = "offsets"
    """Which tokens belong together: those over the same characters, or mutual nearest spelling."""
    num_layers: Count = 1
    """Last layers whose attention is compared."""
    importance: Literal["corrected", "softmax"] = "corrected"
    """Attention that a token receives: its share, without the first token, which a causal model uses as a sink; or
    the published softmax."""
    cka: Literal["debiased", "biased"] = "debiased"
    """`biased` is large for any few rows: 0.87 for 4 rows of chance."""
    rows: Literal["all", "top_third"] = "all"
    """Aligned tokens whose attention is compared: all, or the most important third."""
    cost: Literal["cosine", "softmax"] = "cosine"
    """Cost of moving mass between two tokens: 1 - cos, or 1 - a softmax over the teacher's tokens."""
    sinkhorn_regularisation: Positive = 0.1
    """Entropy of the transport plan."""
    sinkhorn_iterations: Count = 50
    """Iterations, in the log domain."""


class Stella(ProjectedMethod):
    """Cosine, similarities and their order, in stages and at several widths (arXiv 2412.19048)."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"separate_heads": True, "dimensions": [256, 512, 1024]},
        "seed": {
            "cosine_weight": 0.25,
            "similarity_weight": 1.0,
            "ranking_weight": 0.25,
            "task_weight": 0.5,
            "task_temperature": 0.1,
            "separate_heads": True,
            "dimensions": [128, 256, 512],
            "small_weight": 3.0,
            "small_reference": "head",
            "projection": "random",
            "keep_head": False,
        },
    }
    name: Literal["stella"] = "stella"
    cosine_weight: NotNegative = 10.0
    """Weight of 1 - cos to the teacher's vector."""
    similarity_weight: NotNegative = 200.0
    """Weight of the squared difference of similarities."""
    ranking_weight: NotNegative = 20.0
    """Weight of pairs in another order than the teacher's."""
    margin: NotNegative = 0.015
    """By how much a pair must be more similar than one that the teacher finds less so."""
    max_comparisons: Count = 16384
    """Comparisons of two pairs a step: more are drawn at random, all would be B^4 / 8."""
    dimensions: list[Count] = Field(default_factory=lambda: [64, 128, 256])
    """Smaller widths that are trained too (Matryoshka)."""
    separate_heads: bool = False
    """A head of its own for every width, in place of the first numbers of one head; saved as `2_Dense_WIDTH` where
    heads are kept. The tasks judge the large one."""
    small_weight: NotNegative = 1.0
    """Weight of the smaller widths' mean beside the large one; their number makes it a sum."""
    small_reference: Literal["teacher", "head"] = "teacher"
    """Whose similarities the smaller widths learn: the teacher's, or the student's own large head's."""
    keep_head: bool = True
    """Keep the head as part of the student: its vectors are then the head's; false: thrown away after training."""


class Cosine(ProjectedMethod):
    """1 - cos to the teacher's vector, and nothing else (EmbedDistill, arXiv 2301.12005)."""

    is_simple: ClassVar[bool] = True
    name: Literal["cosine"] = "cosine"


class Rkd(Method):
    """Relations between sentences: distances of pairs and angles of triples (Park et al. 2019, arXiv 1904.05068)."""

    is_simple: ClassVar[bool] = True
    name: Literal["rkd"] = "rkd"
    distance_weight: NotNegative = 25.0
    """Weight of the pairwise distances."""
    angle_weight: NotNegative = 50.0
    """Weight of the angles."""


class Leaf(ProjectedMethod):
    """Squared distance to the teacher's vector through a matrix that stays in the student (arXiv 2509.12539)."""

    is_simple: ClassVar[bool] = True
    name: Literal["leaf"] = "leaf"
    keep_head: bool = True
    """Keep the matrix: student and teacher vectors can then be compared with each other."""


class SimilarityKL(Method):
    """KL between the rows' softmax similarities of teacher and student."""

    is_simple: ClassVar[bool] = True
    name: Literal["similarity_kl"] = "similarity_kl"
    teacher_temperature: Positive = 0.05
    """Of the teacher's similarities."""
    student_temperature: Positive = 0.05
    """Of the student's."""


class LayerReduction(ProjectedMethod):
    """Mean squared error to the teacher's vectors: sentence-transformers' recipe for a cut-out student."""

    is_simple: ClassVar[bool] = True
    name: Literal["layer_reduction"] = "layer_reduction"


class ListMethodSettings(ProjectedMethod):
    """What methods on lists share: a row's partner and its negatives (`data.negatives`), with the teacher's scores."""

    list_weight: NotNegative = 0.01
    """Weight of the scores' loss: small, as the teacher's own cosines say nothing that its vectors do not; raise it for
    a cross-encoder's."""
    cosine_weight: NotNegative = 1.0
    """Weight of 1 - cos to the teacher's vector."""
    cosine_of: Literal["query", "all"] = "all"
    """Whose vectors: the row's sentence alone, or its list's documents too, which are read for the scores anyway."""


class MarginMse(ListMethodSettings):
    """Margins of the teacher's scores between a row's partner and its negatives (arXiv 2010.02666)."""

    name: Literal["margin_mse"] = "margin_mse"
    list_weight: NotNegative = 0.1
    """Weight of the squared difference of the margins; see `list_kl`."""


class ListKL(ListMethodSettings):
    """KL of the softmax over a row's partner and its negatives (DistillKLDivLoss of sentence-transformers)."""

    name: Literal["list_kl"] = "list_kl"
    temperature: Positive = 0.05
    """Of both sides' scores."""


class TaskOnly(Method):
    """The contrastive loss alone, without a teacher (SimCSE, arXiv 2104.08821): what the teacher is to beat."""

    is_simple: ClassVar[bool] = True
    name: Literal["simcse"] = "simcse"
    task_weight: Positive = 1.0


def _by_name(value: object) -> object:
    """Read `talas` as `{name: talas}`."""
    return {"name": value} if isinstance(value, str) else value


AnyMethod = (
    Talas
    | Dskd
    | Cdm
    | Emo
    | Stella
    | Cosine
    | Rkd
    | Leaf
    | SimilarityKL
    | LayerReduction
    | MarginMse
    | ListKL
    | LateInteraction
    | TaskOnly
)
MethodSettings = Annotated[AnyMethod, Field(discriminator="name"), BeforeValidator(_by_name)]
"""How a student learns from an embedding teacher."""


def simple_methods() -> list[str]:
    """Return the names of the methods that any other has to beat."""
    return [member.model_fields["name"].default for member in get_args(AnyMethod) if member.is_simple]


def method_options() -> dict[str, list[str]]:
    """Return the names of all methods and the options that each one takes."""
    return {
        member.model_fields["name"].default: [field for field in member.model_fields if field != "name"]
        for member in get_args(AnyMethod)
    }
