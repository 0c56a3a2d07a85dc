"""Small values that everything else uses: names, numbers, draws, packed columns."""
