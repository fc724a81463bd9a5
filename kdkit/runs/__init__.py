"""Run folders: paths, sessions, the HDF5 store of records."""
