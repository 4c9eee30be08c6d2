"""The services that language models are reached through, behind one interface."""
