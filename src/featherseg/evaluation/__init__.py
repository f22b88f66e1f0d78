"""Scoring: the one evaluator and its measures, operation counts, the report."""
