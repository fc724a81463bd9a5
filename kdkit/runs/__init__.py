"""Run folders: paths, how a run is opened, the HDF5 store of records."""
