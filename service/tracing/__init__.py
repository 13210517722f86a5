"""Traces of requests: which are kept, what is noted of them, and how a collector gets it (OpenTelemetry)."""
