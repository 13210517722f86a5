"""A search over one model's settings: judged on validation rows, checked on rows that it never saw."""
