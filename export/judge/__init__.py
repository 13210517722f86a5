"""Measures how good a model is: metrics, bootstrap intervals, parity of graphs."""
