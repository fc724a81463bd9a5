"""The machine: GPU, precision, memory, hub, doctor; the session of a run on it; its copies in W&B."""
