"""What every model server shares: fetch, load, warm, batch, drain, and the two fronts."""
