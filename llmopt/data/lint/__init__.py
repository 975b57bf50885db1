"""Looks for faults in calibration sets: pure functions from rows to findings, none with torch."""
