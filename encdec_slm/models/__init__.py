"""What ships to the Hub: this folder is copied beside the weights, so its files import their siblings by name only."""
