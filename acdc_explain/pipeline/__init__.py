"""The flow: task, circuit, evidence, labels, verdicts, summary."""
