"""Parts of the fidelity benchmark `lds.py`."""
