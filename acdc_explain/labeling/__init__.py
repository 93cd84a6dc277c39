"""From evidence to labels: a labeler answers one question for each component."""
