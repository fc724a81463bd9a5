"""EleutherAI's lm-evaluation-harness: its tasks, found and run on a run's models, and compared in pairs."""
