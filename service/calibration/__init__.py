"""Live calibration: what impressions and clicks say of the pCTRs of a bundle, and what is made of them."""
