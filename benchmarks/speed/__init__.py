"""How fast is it? Updates, actions, imagination and what a run does beside them."""
