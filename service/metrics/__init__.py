"""What the service counts: the metrics, in memory that all its processes share."""
