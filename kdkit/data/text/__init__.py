"""Documents: from the library, files and hub data sets to distinct texts."""
