"""The machinery of a training: loop, stages, state on disk, run directory, several devices."""
