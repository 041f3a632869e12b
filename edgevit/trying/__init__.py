"""A local page on which people try a run's artefacts on pictures of their own."""
