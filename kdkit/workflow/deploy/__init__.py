"""Exported language models: recovered on a run's text, written, opened again, measured beside torch in fp32."""
