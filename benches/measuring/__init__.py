"""What benches/compare.py is made of. Python's standard library only."""
