"""What fits on which GPUs, how fast it plays, and the configuration for it."""
