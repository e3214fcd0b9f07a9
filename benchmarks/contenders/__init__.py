"""What is compared: each in one file, and each as its own documentation shows it."""
