"""Flax NNX modules: from byte ids to logits. They know nothing of files, flags or devices."""
