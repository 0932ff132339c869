"""What people see of results: figures with captions, tables, and files of a report."""
