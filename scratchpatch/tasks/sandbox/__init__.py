"""Untrusted Python programs, in processes of their own. Free of JAX.

`sandbox.run` starts `sandbox/launch.py`, which shuts itself in and starts `sandbox/inside.py`, which runs the program.
"""
