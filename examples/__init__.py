"""Programs to start from; each is run by tests/repository/test_examples.py."""
