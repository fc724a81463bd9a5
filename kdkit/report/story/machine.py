"""On which kind of machine a run was made, and with which versions; nothing that names the machine."""

from typing import Any

from kdkit.report.tables import Table


def machine_table(environment: dict[str, Any], hardware: str = "") -> Table:
    """List the kind of machine and the versions of what ran on it.

    Args:
        environment: `env.json`.
        hardware: what the models were measured on, from `evaluation.json`.
    """
    kind = ", ".join(_kind(environment.get("platform", "")))
    facts = {
        "machine": kind,
        "measured on": hardware,
        "processor cores": str(environment.get("cpu_count") or ""),
        "Kaggle": environment.get("kaggle", ""),
        "Python": environment.get("python", ""),
    }
    facts["packages"] = ", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items())
    return ["what", "kind or version"], [[name, value] for name, value in facts.items() if value]


def _kind(platform: str) -> list[str]:
    """Return system and processor of a platform's name, whose middle may name a machine's own kernel."""
    systems = [name for name in ("Linux", "macOS", "Darwin", "Windows") if platform.startswith(name)]
    processors = [name for name in ("x86_64", "AMD64", "arm64", "aarch64") if name in platform]
    return systems[:1] + processors[:1]
