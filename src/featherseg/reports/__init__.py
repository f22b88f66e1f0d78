"""The page kit, charts and tables; the report and the card of a run."""
