"""ONNX export: checkpoints become ONNX models, proven against PyTorch."""
