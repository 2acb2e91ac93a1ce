"""Reports: what a run left, as one page of HTML that loads nothing. Knows no config, no JAX."""
