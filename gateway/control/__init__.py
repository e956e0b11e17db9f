"""HTTP over a unix socket between the commands (and later the console) and the daemon.

`server` lets in who may and speaks HTTP, `desk` answers, `views` takes snapshots, `shapes` and
`questions` are the JSON of it; `openapi` describes all that from the same table.
"""
