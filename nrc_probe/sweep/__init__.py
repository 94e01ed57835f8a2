"""A folder of checkpoints -> a result each; skips what is done, survives what fails."""
