"""Where the answers of a run come from: a model that is asked through the stages, or a file made elsewhere."""
