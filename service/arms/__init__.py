"""Which model answers: the split, loading bundles, keeping stored features fresh."""
