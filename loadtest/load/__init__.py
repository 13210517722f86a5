"""How load is made: a closed loop with wrk, an open loop of arrivals, and histograms of latency."""
