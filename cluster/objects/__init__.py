"""Objects of the Gateway API and the Inference Extension, from YAML to the facts in them."""
