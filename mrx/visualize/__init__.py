"""Pictures of motion as films, pages, grids and drawings of filters."""
