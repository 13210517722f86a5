"""Logs replayed in the order of time over HTTP: what live calibration does to a real service's pCTRs."""
