"""What people see: text, pages, drawings and plots."""
