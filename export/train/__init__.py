"""Training: from encoded ids to a checkpoint, and the metrics that judge it. It knows of no graph."""
