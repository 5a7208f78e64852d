"""Cleaning: which rows may never reach selection, and why.

Every cleaner reads records and returns a **drops frame** (`drops.DROPS`): one row per dropped
record, keyed by (`id`, `source`, `row`), with the reason and, where there is one, the row that
stays or the benchmark that is repeated. `selection` consumes these frames; nothing is deleted here.

| file | drops |
|---|---|
| `exact` | copies after normalisation |
| `near_duplicates` | texts that share most of their word n-grams (MinHash, then exact Jaccard) |
| `semantic_duplicates` | texts whose sentence embeddings almost agree (SemDeDup) |
| `decontaminate` (`repeats`, `benchmarks`) | rows that repeat an item of an evaluation set |
| `filters` | rows that one of them rejects: a folder, one file each |
| `reference` | rows that are in the reference set too |

`record_text` says what a record says, `text` what its words are, `drops` what a drops frame is and
who of several stays.

What stays of a group of copies never depends on the order of the input, and no row is dropped
because of a row that was itself dropped.
"""
