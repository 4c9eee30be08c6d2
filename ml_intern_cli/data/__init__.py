"""Corpora, tokenizers and shards: from what the user names to token ids on disk."""
