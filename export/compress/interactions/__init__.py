"""What models have beside perceptrons and embeddings: which units of it can go, and how dead ones do.

A module for each kind of layer, with the same two functions: `find_units` and `without_dead`.
"""
