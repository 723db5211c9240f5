"""From text on disk to batches: sources -> documents -> splits -> stream -> windows -> batches.

`sources` names the files of a SPEC and reads their documents, `splits` deals
documents to train, validation and test, `index` joins them once into a
memory-mapped `stream` (`prepared` opens one of `blocks` in shards, which
`scratchpatch prepare` has joined), `mixture` says which streams a config trains
and validates on, and `batches` draws windows from them: what step g holds
depends on the config and on g alone. `entropies` keeps what an entropy model
says about a stream. `paths` are files of this machine or behind URLs.
"""
