"""The metric with edges cut: a reference engine and a fast one with the same decisions."""
