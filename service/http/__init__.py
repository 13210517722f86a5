"""Bytes to requests and answers to bytes: the application, connections, the way of POST /predict."""
