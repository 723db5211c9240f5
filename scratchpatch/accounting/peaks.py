"""What known chips can do at best, from their makers' data sheets: dense bf16, without sparsity."""

from __future__ import annotations

# Substring of jax's device_kind, in the order tried: FLOP/s.
_PEAKS = (
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5", 459e12),
    ("TPU v6", 918e12),
    ("TPU7x", 2307e12),
    ("A100", 312e12),
    ("H100", 989e12),
    ("H200", 989e12),
    ("B200", 2250e12),
)


def peak_flops(device_kind: str) -> float | None:
    """Peak FLOP/s of a chip; None where it is not known (a CPU)."""
    return next((peak for name, peak in _PEAKS if name in device_kind), None)
