"""Training: from encoded ids to a checkpoint. It knows nothing of graphs."""
