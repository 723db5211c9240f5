"""What a run stores: written in the background, checked before it is read, copied to where it outlives the machine.

    format.py        what is in a checkpoint: its names on disk, its description about.json, its checksums
    arrays.py        the arrays of a state on disk: all that touches orbax
    writer.py        Checkpoints: the one run that owns a folder saves and restores there, and prunes old steps
    reader.py        CheckpointReader: whoever else reads the steps of a folder, perhaps while a run is at work there
    durable.py       Tier, Mirror: copies of the steps on storage that outlives the machine
    housekeeping.py  what `scratchpatch checkpoint` does: list, verify, prune
    workdir.py       whose experiment a workdir is: config.json
    lock.py          who holds a workdir and who reads a step: the locks
    settings.py      settings.json: the fields that may change on resumption, by step
    run_text.py      data.json: checksums of the text that a run reads, and the weights of its sources by step
    history.py       History: what settings.json and data.json hold by step
"""
