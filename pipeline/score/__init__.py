"""Score: a method's short mathematics over what was observed, and whether it can be trusted."""
