"""The world: manifests, scraping, the standalone gateway, the model-server simulator.  Imports core/ only."""
