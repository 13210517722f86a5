"""The contract between offline and online: what a bundle holds, and nothing of who writes or serves it."""
