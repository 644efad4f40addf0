"""Networks of Hugging Face's transformers as backbones."""
