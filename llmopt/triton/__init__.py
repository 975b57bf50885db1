"""Model repositories for NVIDIA's Triton Inference *Server* (not the language of that name)."""
