"""Selection: rules and budgets over scores; a ledger with a verdict for every row."""
