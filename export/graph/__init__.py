"""From a trained model to graphs that ONNX Runtime serves: float32, INT8, and the proof that they agree."""
