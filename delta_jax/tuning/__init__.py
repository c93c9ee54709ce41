"""The best classifier that a budget allows: settings tried on validation images, the winner trained, tested once."""
