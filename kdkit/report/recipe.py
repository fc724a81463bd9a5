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
    if (router := config.get("router", {}).get("kind", "none")) != "none":
        recipe.insert(1, ("router", router))
    return recipe


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
