"""Records: what a row is, where rows are kept, and what a record says."""
