"""TensorRT engines: profiles, checks before the build, the build in a process of its own."""
