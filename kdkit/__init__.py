"""kdkit: distil a large language model into a small one, from numbered notebooks."""

__version__ = "0.1.0"
__all__ = ["distill_models"]


def __getattr__(name: str) -> object:
    """Import `distill_models` when it is asked for: `import kdkit` alone stays quick and loads no torch."""
    if name == "distill_models":
        from kdkit.distill.in_memory import distill_models

        return distill_models
    raise AttributeError(f"module 'kdkit' has no attribute {name!r}")
