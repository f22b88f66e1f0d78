"""Models side by side: candidates, the Pareto front, tables and the page."""
