"""Several devices and processes as one run: the mesh, how processes meet, agree and stop, and their supervisor."""
