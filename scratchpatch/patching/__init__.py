"""Where patches end and where scratchpads fire: pure functions on masks, no parameters."""
