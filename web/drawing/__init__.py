"""Pictures, numbers and words as pages show them."""
