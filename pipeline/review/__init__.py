"""Review: people look at records and judge them, one at a time, without losing a click.

    a dataset ─▶ a rule's order ─▶ desk: whose turn is which item ─▶ journals, a line a click
                                                                   └▶ judgements, agreement
    judgements + records ─▶ rulings (majority) ─▶ reviewed records: swapped, corrected, dropped
    what a run is about to publish ─▶ a sample for approval ─▶ a decision, with a name

What is shown and how clicks come in is the page's affair; nothing here knows of the web.
"""
