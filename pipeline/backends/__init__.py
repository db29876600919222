"""Detection frameworks behind one contract, `training.backend.Backend` (loaded by name)."""
