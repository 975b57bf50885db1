"""Checkpoints on disk: streaming readers, writers, and every format's packer and unpacker."""
