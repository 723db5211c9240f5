"""From batches to a trained, resumable model."""
