"""Widgets of the notebooks: experts and tokens of a text (02), a playground (04), runs side by side (05). No torch."""
