"""The online room: it serves bundles over HTTP, and knows nothing of how they were trained."""
