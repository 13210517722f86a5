"""A finished bundle on another log: its scores, how good they are, and how two bundles differ."""
