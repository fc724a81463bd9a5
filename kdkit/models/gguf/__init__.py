"""Writing models of transformers as GGUF files, which llama.cpp runs."""
