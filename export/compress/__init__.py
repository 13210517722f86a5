"""A trained model made small: weights pruned while it trains, then what pruning killed taken out of it."""
