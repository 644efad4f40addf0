"""Demo data: referring expressions about the images of the demo."""
