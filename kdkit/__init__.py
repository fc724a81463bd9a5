"""kdkit: distil a large language model into a small one, from numbered notebooks."""

import logging

__version__ = "0.1.0"
__all__ = ["distill_models", "open_session"]

# transformers imports these where they are installed, and each then warns of kernels that this machine lacks and that
# nothing here uses. A level that somebody has set stays.
for _talker in ("torchao", "torch.utils._pytree", "bitsandbytes.backends.cpu.ops"):
    if logging.getLogger(_talker).level == logging.NOTSET:
        logging.getLogger(_talker).setLevel(logging.ERROR)


def __getattr__(name: str) -> object:
    """Import a public function when it is asked for: `import kdkit` alone stays quick and loads no torch."""
    if name == "distill_models":
        from kdkit.distill.in_memory import distill_models

        return distill_models
    if name == "open_session":
        from kdkit.machine.open_session import open_session

        return open_session
    raise AttributeError(f"module 'kdkit' has no attribute {name!r}")
