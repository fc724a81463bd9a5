"""What `python -m kdkit cache build` does: the teacher's answers, all of them or one part of many."""

from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from kdkit.config.language import Config
from kdkit.data.prepare import prepare_data
from kdkit.distill.open_teacher import build_cache, own_cache_path
from kdkit.distill.plan import TrainingPlan, plan_training
from kdkit.errors import UserError
from kdkit.machine.open_session import open_session
from kdkit.machine.session import Session
from kdkit.runs.folder import default_run_name
from kdkit.runs.store import read_shard
from kdkit.workflow.terminal import Terminal


@dataclass(frozen=True)
class CacheRequest:
    """Options of `python -m kdkit cache build`."""

    config: str
    overrides: list[str] = field(default_factory=list)
    name: str = ""
    runs_dir: str = "runs"
    output: str = ""
    """File to write; empty: in the folder of caches."""
    shard: str = ""
    """`I/N`: the I-th of N parts; empty: all."""
    ray: int = 0
    """Actors of Ray that build it; 0: this process does."""


def open_cache_session(request: CacheRequest) -> Session[Config]:
    """Open the session of a request: of a shard with a run of its own, since many are built at once.

    Raises:
        UserError: see `open_session` and `read_shard`.
    """
    name = request.name
    if request.shard and not name:
        part = read_shard(request.shard)
        name = f"{default_run_name(request.config, request.overrides)[:80]}.{part.number}-of-{part.of}"
    session = open_session(request.config, request.overrides, name, request.runs_dir)
    if not request.output:
        return session
    # the file is the command's business: it must not make another run of the same settings
    cache = session.config.cache.model_copy(update={"file": request.output})
    return replace(session, config=session.config.model_copy(update={"cache": cache}))


def build_answers(request: CacheRequest, terminal: Terminal) -> list[str]:
    """Build a cache or a shard of one; return what to say at the end.

    Raises:
        UserError: see `open_cache_session` and `build_cache`.
    """
    shard = read_shard(request.shard) if request.shard else None
    if shard and request.ray:
        raise UserError(
            f"--ray: expected a whole cache, got --shard {shard} beside it; Ray shares it out, so leave one of them out"
        )
    if request.ray and (find_spec("ray") is None or find_spec("pyarrow") is None):
        raise UserError("--ray: expected the package ray, got none installed; pip install 'kdkit[ray]'")
    session = open_cache_session(request)
    terminal.say(f"hardware: {session.hardware.reason}")
    with terminal.capturing():
        plan = plan_training(session, prepare_data(session))
        path = _build_on_ray(plan, request.ray) if request.ray else build_cache(plan, shard)
    if shard is None:
        return [f"cache: {path}"]
    whole = own_cache_path(plan)
    parts = whole.with_name(f"{whole.stem}.*-of-{shard.of}{whole.suffix}")
    return [f"shard {shard}: {path}", f"when all are built: python -m kdkit cache merge {whole} {parts}"]


def _build_on_ray(plan: TrainingPlan, actors: int) -> Path:
    """Build a cache by actors of Ray.

    Raises:
        UserError: see `build_on_ray`.
    """
    from kdkit.workflow.machines.on_ray import build_on_ray

    return build_on_ray(plan, actors)
