"""One untrusted Python program, run in processes of its own: `sandbox.run` starts `sandbox/launch.py`, which shuts itself
in and starts `sandbox/inside.py`, which runs the program. Free of JAX.
"""
