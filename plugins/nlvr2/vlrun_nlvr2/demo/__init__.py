"""Demo data: statements about pairs of images, which the demo makes for them."""
