"""Run of the notebooks in order with papermill: what `python -m kdkit run` does.

A stage is skipped only if it finished and everything that went into it is unchanged: configuration,
notebook, package, corpus, teacher, and the stages before it.
"""

import difflib
import re
import shlex
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from kdkit.config.embeddings import REDUCE, EmbeddingConfig
from kdkit.config.language import BUILD, Config, dump_config
from kdkit.errors import UserError
from kdkit.machine.hub import is_local_path
from kdkit.machine.session import Session
from kdkit.runs.disk import check_writable, disk_error, is_full, writing
from kdkit.runs.folder import Run, fingerprint, fingerprint_files
from kdkit.runs.open_run import open_embedding_run, open_run, plan_run
from kdkit.runs.paths import find_root, resolve_input

TRAINING_STAGES = ("03_distill", "06_embedding_distillation")
"""Notebooks that can go on with an interrupted training."""
JUDGING_STAGES = ("04_evaluate", "05_report")
"""Notebooks that read the run's own configuration."""


@dataclass(frozen=True)
class RunRequest:
    """Options of `python -m kdkit run`."""

    config: str
    overrides: list[str] = field(default_factory=list)
    name: str = ""
    runs_dir: str = "runs"
    first: str = ""
    """Run from this stage on, even if it is done: `03` or `03_distill`."""
    only: str = ""
    """Run these stages only, even if they are done: `04,05`."""
    resume: bool = False
    """Continue an interrupted training from its checkpoint."""


def run_notebooks(request: RunRequest) -> Run:
    """Run the notebooks of a request and return the run.

    Raises:
        UserError: anything that the user can correct; found before the first notebook where possible.
        RuntimeError: a notebook failed.
    """
    arguments = request.config, request.overrides, request.name, request.runs_dir
    config, run = plan_run(*arguments)
    is_embedding = isinstance(config, EmbeddingConfig)
    stages = find_stages(find_root(), is_embedding)
    forced = choose_stages(stages, request.first, request.only)
    check_writable(run.path, "--runs-dir")
    check_writable(run.cache_path, "cache_dir")
    started = time.monotonic()
    print("checking the configuration, the models and the text", flush=True)
    source = check_embedding_inputs(config, run) if is_embedding else check_inputs(config, run)
    print(f"checked in {time.monotonic() - started:.1f} s", flush=True)
    config, run = open_embedding_run(*arguments) if is_embedding else open_run(*arguments)
    print(f"run {run.name}: {run.path}", flush=True)
    base = [dump_config(config), source, fingerprint_files(Path(__file__).parents[1])]
    for stage, notebook in stages.items():
        if request.only and stage not in forced:
            continue
        inputs = fingerprint(base, fingerprint_files(notebook), _finished_before(run, stage))
        status = run.status().get(stage, {})
        if stage not in forced and status.get("state") == "done" and status.get("inputs") == inputs:
            print(f"{stage}: done before, inputs unchanged, skipped", flush=True)
            continue
        _run_stage(request, run, stage, notebook, inputs)
    return run


def find_stages(root: Path, is_embedding: bool = False) -> dict[str, Path]:
    """Return the numbered notebooks of a story, in order, by name: five for language models, one for embeddings."""
    pattern = "06_*.ipynb" if is_embedding else "0[1-5]_*.ipynb"
    return {path.stem: path for path in sorted((root / "notebooks").glob(pattern))}


def choose_stages(stages: dict[str, Path], first: str, only: str) -> set[str]:
    """Resolve `--from` and `--only` to the stages that must run.

    Raises:
        UserError: no stage of that name or number.
    """

    def resolve(text: str, option: str) -> str:
        found = [stage for stage in stages if text in (stage, stage[:2], stage[3:])]
        if not found:
            near = difflib.get_close_matches(text, [name for stage in stages for name in (stage, stage[3:])], n=1)
            hint = f"did you mean {near[0]!r}?" if near else "use the number or the name"
            raise UserError(f"{option}: expected one of {', '.join(stages)}, got {text!r}; {hint}")
        return found[0]

    if only:
        return {resolve(text.strip(), "--only") for text in only.split(",")}
    if first:
        start = list(stages).index(resolve(first, "--from"))
        return set(list(stages)[start:])
    return set()


def check_inputs(config: Config, run: Run) -> str:
    """Find a user's mistakes before anything is written to the run; return a fingerprint of the inputs.

    The prepared data is made here if the cache does not have it: reading the corpus is the check.
    """
    from kdkit.data.prepare import build_data, open_data
    from kdkit.distill.plan import plan_training
    from kdkit.machine.hardware import find_hardware
    from kdkit.models.loading import check_model_folder

    hardware = find_hardware(config.train.device, config.train.precision)
    parts = []
    for path, key in ((config.teacher.path, "teacher.path"), (config.student.path, "student.path")):
        if path != BUILD:
            name = check_model_folder(path, key)
            files = sorted(Path(name).glob("*"))  # none for a hub name
            parts.append([[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files])
    folder = build_data(config, run.cache_path)
    plan_training(Session(config, run, hardware), open_data(folder))
    return fingerprint(folder.name, parts)


def check_embedding_inputs(config: EmbeddingConfig, run: Run) -> str:
    """Find a user's mistakes before anything is written to the run; return a fingerprint of the inputs.

    The sentences are read, and the tasks: reading is the check.
    """
    from kdkit.embeddings.data.prepare import build_sentences
    from kdkit.embeddings.data.tasks import load_tasks
    from kdkit.embeddings.evaluate.measures import check_tasks
    from kdkit.embeddings.models.embedder import fingerprint_model, place_teacher
    from kdkit.machine.hardware import find_hardware

    place_teacher(config.teacher.device, find_hardware(config.train.device, config.train.precision))
    if config.evaluate.tasks:
        check_tasks(load_tasks(config, run.cache_path))
    ready = config.evaluate.off_the_shelf
    if ready is not None and is_local_path(ready):
        fingerprint_model(ready, None, "evaluate.off_the_shelf")
    models = [(config.teacher.path, config.teacher.revision, "teacher.path")]
    if config.student.path not in (REDUCE, BUILD):
        models.append((config.student.path, config.student.revision, "student.path"))
    parts = [fingerprint_model(*model) for model in models]
    return fingerprint(build_sentences(config, run.cache_path).name, parts)


def _finished_before(run: Run, stage: str) -> dict[str, str]:
    """Return when the earlier stages finished: a stage that ran again has made new inputs for the later ones."""
    return {name: entry.get("finished", "") for name, entry in run.status().items() if name < stage}


def run_notebook(notebook: Path, output: Path, parameters: dict[str, object]) -> None:
    """Execute one notebook in the current folder, passing on what it prints.

    Raises:
        UserError: a parameter that the notebook does not have, or a mistake found inside it.
        RuntimeError: the notebook failed.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "use one of these"
            raise UserError(f"{notebook.name}: expected a parameter among {', '.join(known)}, got {name!r}; {hint}")
    with writing(output.parent, "--runs-dir"):
        output.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(notebook),
            str(output),
            parameters,
            kernel_name="python3",
            cwd=str(Path.cwd()),
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            # noise: that it talks unencrypted, to this machine only, and that it was stopped, which it was at its end
            extra_arguments=["--IPKernelApp.log_level=50"],
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == UserError.__name__:
            raise UserError(error.evalue) from None
        if is_full(error):  # by what was written without our help: checkpoints, pictures
            raise disk_error(error, output.parent.parent, "--runs-dir") from error
        raise RuntimeError(f"{notebook.name} failed: {error.ename}: {error.evalue}; see {output}") from error
    except DeadKernelError as error:
        raise RuntimeError(
            f"{notebook.name}: its kernel died, most often for lack of memory; lower "
            f"train.per_device_train_batch_size or data.max_length (see {output})"
        ) from error


def _run_stage(request: RunRequest, run: Run, stage: str, notebook: Path, inputs: str) -> None:
    """Execute one stage and keep its status."""
    before = run.status().get(stage, {})
    # what an earlier try left may be continued only if it was made from the same inputs
    resume = request.resume and before.get("state") != "done" and before.get("inputs") == inputs
    print(f"{stage}: {'resumed' if resume else 'started'}", flush=True)
    parameters: dict[str, object] = {"RUN": run.name, "RUNS_DIR": str(run.path.parent)}
    if stage not in JUDGING_STAGES:
        parameters["CONFIG"] = str(resolve_input(request.config).resolve())
        parameters["OVERRIDES"] = shlex.join(request.overrides)
    if stage in TRAINING_STAGES:
        parameters["RESUME"] = resume
    start = time.monotonic()
    run.set_status(stage, state="running", inputs=inputs)

    def finish(state: str, message: str = "") -> None:
        seconds = round(time.monotonic() - start, 1)
        finished = datetime.now(UTC).isoformat(timespec="milliseconds")
        run.set_status(stage, state=state, seconds=seconds, message=message, inputs=inputs, finished=finished)

    try:
        run_notebook(notebook, run.path / "notebooks" / notebook.name, parameters)
    except KeyboardInterrupt:
        finish("interrupted", "stopped by the user")
        raise
    except (UserError, RuntimeError) as error:
        finish("failed", re.sub(r"\s+", " ", str(error)))
        raise
    finish("done")
    print(f"{stage}: done in {time.monotonic() - start:.1f} s", flush=True)
