"""Export: a ledger and its records become a published folder that loads everywhere.

`publish.export` writes it, `verify.verify` proves it whole, `changes.changes` compares two of them,
`push.push` sends one to a hub repository. Trainer columns are made in `views`, Parquet in `shards`,
the ledger that ships in `provenance`; `card`, `croissant`, `licenses` and `loaders` are pure
functions of `facts.Facts`, whose every number is read from the written files.
"""
