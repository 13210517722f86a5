"""What comes back of answers: tokens of candidates, and the impressions and clicks that report them."""
