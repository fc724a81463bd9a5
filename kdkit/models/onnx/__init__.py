"""Models as ONNX graphs: written, made INT8, and run by onnxruntime in the place of transformers' own."""
