"""What Triton's server would refuse, or serve wrongly without a word, found in files alone."""
