"""The seed's six checks on a trained path, one module for each that measures something."""
