"""`scratchpatch prepare`: from the documents of any source to a folder of shards that training reads (`data.prepared`).

A document's place is a function of its bytes alone: a keyed hash of them says which split it belongs to, which shard,
and where it stands there; equal documents have one hash and fall together. So split, order and deduplication depend on
neither the files, nor the number of shards, nor who computes. `plan` has these functions, `tasks` reads and sorts some
files, `shards` writes one shard, `local` runs both in processes, `beam` on any runner of Apache Beam, and `folder`
makes them one folder that a later attempt goes on with after a kill.
"""
