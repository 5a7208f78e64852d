"""The commented files of settings that `gristmill init` writes."""
