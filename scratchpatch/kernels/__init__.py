"""Attention over windows of bytes and over the staircase of slots."""
