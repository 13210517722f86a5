"""Every Prometheus metric, and the plain counts between two scrapes."""
