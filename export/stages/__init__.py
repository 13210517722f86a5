"""The stages of an export, from a log to a bundle, and what they hand over."""
