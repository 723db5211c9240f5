"""What a run stores: written in the background, checked before it is read, copied to where it outlives the machine.

A step is described in `format`, and its arrays are orbax's (`arrays`). The one run that owns a folder writes there
(`writer`); whoever else reads goes through `reader`. `durable` copies steps to a second tier, and `housekeeping` lists,
verifies and prunes them. The workdir around the steps has config.json (`workdir`), settings.json (`settings`) and
data.json (`run_text`), the last two with what changed by step (`history`), and locks (`lock`).
"""
