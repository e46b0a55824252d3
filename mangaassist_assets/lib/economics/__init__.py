"""What things cost: dated prices, and what a better model is worth."""
