"""Examples: requests as they were sent with their answers, and how tomorrow's training log is made of them."""
