"""kdkit: distil a large language model into a small one, from numbered notebooks."""

__version__ = "0.1.0"
