"""Every setting, declared once, and how a configuration file is read."""
