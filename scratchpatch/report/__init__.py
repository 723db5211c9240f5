"""What one looks at: figures, the page of a run, a passage of text with its patches."""
