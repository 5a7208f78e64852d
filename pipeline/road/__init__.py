"""The road: stages that prepare, observe, score and select the rows that are still there."""
