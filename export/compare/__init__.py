"""Models side by side: trained on one encoded log, exported alike, judged on the same test rows."""
