"""All that touches the device in a step."""
