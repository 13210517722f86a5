"""One arm at work: request to ids, batch, logits, pCTR."""
