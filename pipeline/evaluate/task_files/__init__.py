"""Tasks of lm-evaluation-harness on local rows: data files, prompts, metrics. No code."""
