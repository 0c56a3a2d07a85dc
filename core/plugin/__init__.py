"""What a plugin is: the shapes of the kinds, the register of types, and help with formulas."""
