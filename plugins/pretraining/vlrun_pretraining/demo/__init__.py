"""Demo data: captions and questions about the images of the demo, in the files of three pre-trainings."""
