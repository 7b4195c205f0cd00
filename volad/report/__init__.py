"""What a reader gets besides the mask: lesion tables and a page to look at the result."""
