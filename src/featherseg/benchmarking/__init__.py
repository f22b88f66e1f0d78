"""How fast models are: processes that take turns, latency, memory, the roofline."""
