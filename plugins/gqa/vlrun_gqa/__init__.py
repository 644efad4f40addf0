"""GQA: compositional questions about real images, each with one answer. ``plugin.py`` lists the parts."""
