"""Step 2: from a scan to the model's grid and intensities (see `volad.preprocess.steps`)."""
