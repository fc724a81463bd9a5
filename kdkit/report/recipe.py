"""How a student was made, in one line: what a reader looks for first. From config.yaml and the run's JSON files."""

from typing import Any

from kdkit.report.writing import write_number_plainly

Recipe = list[tuple[str, str]]
"""Names and values, in order."""


def language_recipe(config: dict[str, Any], training: dict[str, Any], steps: int) -> Recipe:
    """Return loss, temperature, ratio, steps and seed of a language model's training.

    Args:
        training: `training.json`, whose `loss` names what `auto` chose; older builds did not keep it.
        steps: that the student took.
    """
    distill = config["distill"]
    asked = distill["loss"] if isinstance(distill["loss"], str) else distill["loss"]["name"]
    used = training.get("loss", {}).get("name", asked)
    recipe = [
        ("loss", used if used == asked else f"{used} (chosen by {asked})"),
        ("temperature", write_number_plainly(distill["temperature"])),
        ("kd_ratio", write_number_plainly(distill["kd_ratio"])),
        ("steps", f"{steps:,}"),
        ("seed", str(config["seed"])),
    ]
    if stages := config["train"].get("stages"):
        recipe.insert(3, ("stages", ", ".join(stage["name"] for stage in stages)))
    if options := training_options(config["train"]):
        recipe.insert(-1, ("trained with", ", ".join(options)))
    if (router := config.get("router", {}).get("kind", "none")) != "none":
        recipe.insert(1, ("router", router))
    return recipe


def training_options(train: dict[str, Any]) -> list[str]:
    """Return in words what a training does beyond AdamW, a cosine and batches of one size; older runs name none.

    Args:
        train: section of a configuration.
    """
    words = [] if train.get("optimizer", "adamw") == "adamw" else [train["optimizer"]]
    if (betas := train.get("adam_betas", [0.9, 0.999])) != [0.9, 0.999]:
        words.append("betas " + " and ".join(map(write_number_plainly, betas)))
    if (schedule := train.get("lr_schedule", "cosine")) != "cosine":
        words.append(schedule.replace("_", " "))
    if (end := train.get("weight_decay_end")) is not None:
        decays = map(write_number_plainly, (train["weight_decay"], end))
        words.append("weight decay " + " to ".join(decays))
    if (average := train.get("average", {}).get("kind", "none")) != "none":
        words.append({"ema": "moving average of weights", "uniform": "mean of weights"}[average])
    if tokens := train.get("multi_token", {}).get("num_tokens", 0):
        words.append(f"{tokens} further token{'s' * (tokens > 1)}")
    if tokens := train.get("micro_batch_tokens"):
        words.append(f"micro-batches of {tokens:,} tokens")
    for key, name in (("batch_schedule", "batch"), ("length_schedule", "length")):
        if schedule := train.get(key):
            words.append(f"{name} {', '.join(str(schedule[share]) for share in sorted(schedule, key=float))}")
    return words


def embedding_recipe(config: dict[str, Any], name: str, training: dict[str, Any]) -> Recipe:
    """Return method, start, steps, batch, learning rate and seed of an embedding model's training.

    Args:
        name: of the method in tables.
        training: its entry of `training.json`.
    """
    train, student = config["train"], config["student"]
    layers = student.get("layers")
    start = student["path"] + (f", layers {', '.join(map(str, layers))}" if layers else "")
    batch = train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
    return [
        ("method", name),
        ("start", start),
        ("steps", f"{training['steps']:,}"),
        ("sentences a step", f"{batch:,}"),
        ("learning rate", write_number_plainly(train["learning_rate"])),
        ("seed", str(config["seed"])),
    ]
