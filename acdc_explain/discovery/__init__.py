"""From a task to a circuit: ACDC, attribution, and the faithfulness of a circuit."""
