"""What a page tells a reader who has seen no notebook: what was done, by which loss, at what cost, and its limits."""
