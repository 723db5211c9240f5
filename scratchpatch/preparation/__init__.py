"""`scratchpatch prepare`: from the documents of any source to a folder of shards that training reads (`data.prepared`).

A document's place is a function of its bytes alone. `plan` has these functions, `tasks` reads and sorts some files,
`shards` writes one shard, `local` runs both in processes, `beam` on any runner of Apache Beam, and `folder` makes them
one folder that a later attempt goes on with after a kill.
"""
