"""What a model costs: parameters, MACs, memory; and the figures that papers print."""
