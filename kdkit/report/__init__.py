"""Room 05: figures, tables, the page and the model card; reads run folders only, never torch."""
