"""What is put on PYTHONPATH of rehearsed programs; nothing here is imported as a package."""
