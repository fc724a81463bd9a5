"""What was done, for a reader who knows the run's page alone: teacher, student, text, loss, training, twin."""

from pathlib import Path
from typing import Any

from kdkit.report.recipe import training_options
from kdkit.report.story.methods import loss_in_words, used_loss
from kdkit.report.tables import Table
from kdkit.report.writing import write_number_plainly
from kdkit.runs.curves import LABELS

BUILD = "build"
"""Value of `path` where a model is made here."""

HOW_TO_READ = [
    (
        "Bits per byte",
        "how many bits a model needs for one byte of text that it has never seen, the fewer the better. It does not "
        "depend on the tokenizer, so models with different ones can be compared by it; perplexity is by a model's own "
        "tokens and compares models of one tokenizer only.",
    ),
    (
        "Gap closed",
        "(baseline \u2212 student) / (baseline \u2212 teacher), in bits per byte. 0: no better than the baseline, "
        "which is the same student without a teacher; 1: as good as the teacher.",
    ),
    (
        "95 % interval",
        "where the figure would lie with other held-out text of the same kind. A difference whose interval holds 0 may "
        "be chance. \u2193 and \u2191 say which direction is good; bold is the best of the students.",
    ),
]
"""Terms and what they mean: three lines that every other line of the page can be read with."""


def what_was_done(
    config: dict[str, Any], evaluation: dict[str, Any], manifest: dict[str, Any], training: dict[str, Any]
) -> Table:
    """Say in words what the run did, a row for each part of it.

    Args:
        training: `training.json`; {} where an older build wrote none.
    """
    rows = [
        ["Teacher", _teacher(config, evaluation, manifest)],
        ["Student", _student(config, evaluation, manifest)],
        ["Text", _text(config, manifest)],
        ["Held out", _held_out(evaluation, manifest)],
        ["What it learns", _learns(config, training)],
        ["Training", _training(config, evaluation)],
        ["Baselines", _baselines(config, evaluation)],
    ]
    return ["part", "what was done"], [[name, words] for name, words in rows if words]


def model_name(path: str) -> str:
    """Name a model for a reader elsewhere: of a folder or file of this machine its last part."""
    return Path(path).name if Path(path).is_absolute() or path.startswith(("./", "../", "~")) else path


def teacher_names(config: dict[str, Any]) -> list[str]:
    """Return the names of several teachers; none where there is one."""
    members = config.get("teachers", {}).get("members", [])
    return [str(member.get("name") or model_name(member.get("path", ""))) for member in members]


def _teacher(config: dict[str, Any], evaluation: dict[str, Any], manifest: dict[str, Any]) -> str:
    """Say what the teacher is and where it comes from."""
    entry, section = evaluation["models"]["teacher"], config["teacher"]
    what = f"{entry['architecture']}{_of_parameters(entry)}{_vocabulary(manifest, 'teacher')}"
    if names := teacher_names(config):
        which = "Where this page says \u201cteacher\u201d it means the first"
        return f"{len(names)} teachers: {', '.join(names)}. {which}: {what}."
    if section["path"] == BUILD:
        steps = section["build"]["max_steps"]
        return f"{what}, made here: trained for {steps:,} steps on the same training text, before the student."
    others = f", together with {', '.join(map(model_name, section['others']))}" if section.get("others") else ""
    return f"{model_name(section['path'])}{others}: {what}. It was not trained here."


def _student(config: dict[str, Any], evaluation: dict[str, Any], manifest: dict[str, Any]) -> str:
    """Say what the student is, and from which weights it starts."""
    entry, section = evaluation["models"]["student"], config["student"]
    architecture = entry.get("architecture", "a causal language model")
    what = f"{architecture}{_of_parameters(entry)}{_vocabulary(manifest, 'student')}"
    adapters = ", and trained through low-rank adapters" if section.get("lora") else ""
    if section["path"] != BUILD:
        layers = section.get("layers")
        kept = "" if layers is None else f", of whose layers {layers} are kept"
        return f"{what}, started from {model_name(section['path'])}{kept}{adapters}."
    if made := section.get("from_teacher"):
        return f"{what}, made from parts of the teacher ({made['kind']}){adapters}."
    start = "new: its embeddings and its head start from the teacher's, the rest from random numbers"
    return f"{what}, {start if config['distill'].get('start_from_teacher') else 'new: it starts from random numbers'}."


def _text(config: dict[str, Any], manifest: dict[str, Any]) -> str:
    """Say what the models read, and how much of it there is."""
    corpus, train = manifest["corpus"], manifest["train"]
    parts = [f"{corpus['source']}: {corpus['train_documents']:,} documents, {train['num_bytes']:,} bytes"]
    if "student_tokens" in train:
        parts.append(f"{train['student_tokens']:,} tokens of the student")
    return f"{', '.join(parts)}, in sequences of at most {config['data']['max_length']:,} tokens."


def _held_out(evaluation: dict[str, Any], manifest: dict[str, Any]) -> str:
    corpus = manifest["corpus"]
    return (
        f"{corpus['evaluation_documents']:,} other documents of the same source, {evaluation['evaluated']['bytes']:,} "
        "bytes of which are scored. No model was trained on them."
    )


def _learns(config: dict[str, Any], training: dict[str, Any]) -> str:
    """Say what the loss asks, and why it was chosen where nobody did."""
    chosen = training.get("loss", {})
    why = f" It was chosen because {chosen['reason']}." if chosen.get("reason") else ""
    sentence = loss_in_words(used_loss(config, training))
    if stages := [stage["name"] for stage in config["train"].get("stages", [])]:
        sentence += f" In {len(stages)} stages ({', '.join(stages)}), each with settings of its own."
    return sentence + why


def _training(config: dict[str, Any], evaluation: dict[str, Any]) -> str:
    """Say how long, how fast and by which optimizer the student was trained."""
    train, result = config["train"], evaluation["models"]["student"]["training"]
    batch = train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
    words = f"{result['steps']:,} steps of {batch:,} sequences"
    if result.get("tokens"):
        words += f", {result['tokens']:,} tokens in all"
    words += f"; peak learning rate {write_number_plainly(train['learning_rate'])}, seed {config['seed']}"
    options = training_options(train)
    return f"{words}; {', '.join(options)}." if options else f"{words}; AdamW, a cosine of the learning rate."


def _baselines(config: dict[str, Any], evaluation: dict[str, Any]) -> str:
    """Say what the student is compared with."""
    trained = [LABELS[name].removeprefix("baseline, ") for name in evaluation["models"] if name.startswith("baseline")]
    started = config["distill"].get("start_from_teacher") or config["student"].get("from_teacher")
    without = ", and without the start from the teacher" if started else ""
    times = "once" if len(trained) == 1 else f"{len(trained)} times"
    return (
        f"The same student without a teacher: cross-entropy alone, the same text in the same order{without}. Trained "
        f"{times}: {'; '.join(trained)}."
    )


def _of_parameters(entry: dict[str, Any]) -> str:
    return f" of {entry['parameters']:,} parameters" if entry.get("parameters") else ""


def _vocabulary(manifest: dict[str, Any], side: str) -> str:
    size = manifest.get("vocabulary", {}).get(side)
    tokenizer = "the same tokenizer" if manifest.get("same_tokenizer") and side == "student" else "a tokenizer"
    return f" with {tokenizer} of {size:,} tokens" if size else ""
