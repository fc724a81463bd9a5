"""How well models solve problems: answers and steps checked, samples counted, voted on and picked."""
