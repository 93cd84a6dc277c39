"""What people see of results: text, HTML pages, drawings and plots."""
