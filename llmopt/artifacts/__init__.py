"""What steps hand to each other: schemes, manifests, artifacts and the store that keeps them."""
