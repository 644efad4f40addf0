"""Visual question answering on VQA v2. ``plugin.py`` lists the parts."""
