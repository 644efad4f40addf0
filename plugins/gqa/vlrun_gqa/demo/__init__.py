"""Demo data: questions with programs about the images of the demo."""
