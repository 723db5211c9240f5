"""A trained or random model on documents of any length: score, segment, generate."""
