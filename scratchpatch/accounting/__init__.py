"""What a model costs: parameters, FLOPs, KV cache, by tier."""
