"""Visual entailment: does a statement follow from an image?"""
