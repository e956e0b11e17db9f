"""Metrics: what is counted over all calls, for Prometheus. `tally` counts, `exposition` shows."""
