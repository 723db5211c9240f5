"""Is the model causal, how well does it predict, and at what cost?"""
