"""Load as code: traffic, scenarios, and benches whose results are JSON with the commit."""
