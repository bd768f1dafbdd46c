"""What benches/compare.py and benches/targets.py are made of. Python's standard library only."""
