"""Parameters and multiply-accumulates of models, compared with what papers print."""
