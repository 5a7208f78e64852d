"""Models: references to weights, loading, chat encoding and masks, and passes over them."""
