"""The parts of bench/store.py. Everything that is measured runs in processes of its own."""
