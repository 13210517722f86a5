"""What the service counts: the metrics, and plain counts between two publications."""
