"""Examples: requests and answers as they were sent, and the training log that is made of them."""
