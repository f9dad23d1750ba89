"""The options: what there is, where values come from, and what they may be."""
