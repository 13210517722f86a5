"""Bid policies on logged auctions: tuned on the earlier part of each campaign, judged on the later one."""
