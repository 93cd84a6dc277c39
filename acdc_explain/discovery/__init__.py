"""From a task to a circuit: ACDC, attribution, and how faithful the result is."""
