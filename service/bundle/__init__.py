"""The contract between offline and online: what a bundle holds; it knows neither writer nor server."""
