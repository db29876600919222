"""Finding the recipe of an ensemble, and what it is honestly worth."""
