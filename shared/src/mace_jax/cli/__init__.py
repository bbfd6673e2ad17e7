"""What all command lines share: errors and exit codes, options, progress, results."""
