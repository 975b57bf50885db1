"""Text generation as one decoupled model: key-value cache, continuous batching, streaming."""
