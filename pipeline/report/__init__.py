"""The report: one self-contained HTML page on what was taken, what was left, and why.

`tables` computes every figure from the ledger, `plots` draws them as SVG, `page` holds the frame
and the escaping, `build.report` puts the sections together.
"""
