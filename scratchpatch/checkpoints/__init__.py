"""What a run stores: written in the background, checked before it is read, copied to where it outlives the machine."""
