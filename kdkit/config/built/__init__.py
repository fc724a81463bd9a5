"""Settings of models that are built here."""
