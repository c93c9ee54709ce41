"""Programs to start from; each is run by tests/test_examples.py."""
