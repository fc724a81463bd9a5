"""The machine: GPU, precision, memory, hub, doctor."""
