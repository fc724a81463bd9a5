"""What a configuration will take, from the configuration alone: memory, disk, time, and what to change."""
