"""What a model holds and what it costs, by arithmetic: parameters, FLOPs, KV cache; and what chips can do."""
