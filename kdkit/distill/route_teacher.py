"""The teacher of a stage: as it is, routed by the settings `router`, or following the student."""

import torch

from kdkit.alignment.same_ids import share_tokenizer
from kdkit.alignment.tokenizers import load_tokenizer
from kdkit.config.language import Config
from kdkit.config.losses import ForwardKL, ProjectedKL
from kdkit.data.batches import longest_sequence
from kdkit.data.prepare import PreparedData
from kdkit.distill.choose_loss import compares_events, make_events
from kdkit.distill.plan import Stage
from kdkit.errors import UserError
from kdkit.machine.session import Session
from kdkit.models.experts import check_trainable
from kdkit.models.loading import check_fits, load_causal_lm, num_experts
from kdkit.teachers.average import AveragedTeacher
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.online import OnlineTeacher
from kdkit.teachers.prepare import check_first_answer
from kdkit.teachers.router.gates import check_sources
from kdkit.teachers.router.teacher import TRAINED, RoutedTeacher
from kdkit.teachers.sources import ExpertSources, MixedSources, Sources


def make_online_teacher(
    session: Session[Config], data: PreparedData, teacher: TextTeacher, stage: Stage, student_width: int
) -> OnlineTeacher:
    """Prepare a teacher in memory for one stage.

    Args:
        student_width: hidden size of the student, whose state a student-aware router reads.

    Raises:
        UserError: a router with nothing to route over, or more sources set than there are; see also `open_sources`.
    """
    size, dtype = data.overlap.teacher_size, session.hardware.autocast_dtype
    decay, settings = session.config.teacher.average_decay, session.config.router
    if decay is not None:
        return AveragedTeacher(teacher.model, size, dtype, decay=decay)
    online = teacher.online(size, dtype)
    if settings.kind == "none":
        return online
    sources = open_sources(session, data, online)
    check_sources(settings, sources.initial_gates.shape[1], sources.top_k, sources.what)
    if settings.kind in TRAINED and settings.training_top_k is not None:
        check_trainable(settings.training_top_k, sources.normalised, "router.training_top_k")
    if settings.uses("annealing") and (settings.final_top_k or sources.top_k) == 1 and sources.normalised:
        print(
            f"router: annealing does nothing here: this teacher chooses one of its {sources.what} per token, whose "
            "weight is 1 at every temperature (set router.final_top_k=2 if 02 shows that two predict better)",
            flush=True,
        )
    # a loss over whole spans has no distribution to compare; the router's own comparison needs one
    loss = stage.loss if compares_events(stage.loss) else ForwardKL() if data.same_tokenizer else ProjectedKL()
    return RoutedTeacher(
        online,
        sources,
        settings,
        events=make_events(loss, data, torch.device(teacher.device)),
        temperature=stage.temperature,
        student_width=student_width,
        num_steps=stage.steps,
        # stages must not draw the same experts
        seed=session.config.training_seed + stage.first_step,
    )


def open_sources(session: Session[Config], data: PreparedData, online: OnlineTeacher) -> Sources:
    """Return what the router routes over, by `router.sources`; `auto`: teachers if several, else experts.

    Raises:
        UserError: one dense teacher and other sources than layers; another teacher with another tokenizer.
    """
    settings = session.config.router
    if session.config.teacher.others:
        others = [_load_other(session, path, data) for path in session.config.teacher.others]
        return MixedSources([online, *others])
    if settings.sources == "layers":
        return MixedSources([online], settings.num_layers)
    if not num_experts(online.model.config):
        raise UserError(
            f"router.kind: expected something to route over for {settings.kind!r}, got one dense teacher "
            f"({type(online.model).__name__}); set router.sources=layers, name teacher.others, or router.kind=none"
        )
    return ExpertSources(online)


def _load_other(session: Session[Config], path: str, data: PreparedData) -> OnlineTeacher:
    """Load one more teacher beside the main one."""
    key, trust = "teacher.others", session.config.teacher.trust_remote_code
    tokenizer = load_tokenizer(path, key, trust_remote_code=trust)
    shared = share_tokenizer(data.teacher_tokenizer, tokenizer)
    if shared is None or len(shared.student) < data.overlap.teacher_size:
        raise UserError(
            f"{key}: expected the tokenizer of teacher.path ({len(data.teacher_tokenizer)} entries), got another in "
            f"{path!r} ({len(tokenizer)} entries); a mixture needs ids that mean the same, so leave it out"
        )
    model = load_causal_lm(
        path,
        key,
        dtype=session.hardware.dtype,
        device=session.hardware.teacher_device,
        trust_remote_code=trust,
    ).requires_grad_(False)
    longest = longest_sequence("teacher", data.train, data.evaluation)
    check_fits(model, len(data.teacher_tokenizer), longest, key, "teacher.max_length")
    check_first_answer(session, data, model, key)
    return OnlineTeacher(model, data.overlap.teacher_size, session.hardware.autocast_dtype)
