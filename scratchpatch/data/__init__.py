"""From text on disk to batches: sources -> documents -> splits -> shards -> stream -> windows -> batches."""
