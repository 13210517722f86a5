"""What models have beside perceptrons and embeddings: the units that can be pruned of it, and how dead ones go.

A module for each kind of layer, with the same two functions: `find_units` and `without_dead`.
"""
