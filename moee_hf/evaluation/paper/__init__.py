"""What the paper reports and what its released code does, beside ours."""
