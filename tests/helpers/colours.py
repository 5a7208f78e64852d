"""A task of two choices, in a file of its own: `colours.jsonl` holds its rows."""

TASK = """\
task: colours
dataset_path: json
dataset_kwargs:
  data_files:
    test: colours.jsonl
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{query}}\\nAnswer:"
doc_to_target: gold
doc_to_choice: choices
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
metadata:
  version: 1.0
"""
