"""The brain that is a language model: one module for each question it is asked, the prompts beside them."""
