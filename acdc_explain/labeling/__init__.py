"""From evidence to labels: one question a component."""
