"""The hospital's side of federated learning: decides whether to take part, trains, and looks at all that leaves."""
