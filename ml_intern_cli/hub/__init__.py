"""What goes to a Hub, or into a folder like one: bundles and their publication."""
