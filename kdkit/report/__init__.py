"""Reports from run folders: tables, pictures, pages; never torch."""
