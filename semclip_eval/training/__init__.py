"""Training ψ with the VLM's own feedback (`semclip-eval train-psi`, docs/training_psi.md)."""
