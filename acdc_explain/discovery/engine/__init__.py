"""The metric with edges cut: the reference, and the same decisions fast."""
