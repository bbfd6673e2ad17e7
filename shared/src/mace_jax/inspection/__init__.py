"""What a file of the contract is, where it comes from, and the same file at the newest version."""
