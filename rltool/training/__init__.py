"""What every method shares: registry, run folder, checkpoint, loggers, progress, schedules, optimizers."""
