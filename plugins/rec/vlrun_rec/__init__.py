"""Referring expression comprehension: which region of an image does a phrase mean? ``plugin.py`` lists the parts."""
