"""What the paper reports and what its released code does, beside ours.

`tables` holds the published numbers, `comparison` a model on the paper's tasks, `released_code` what the authors' code
does where it differs from the paper; `robustness` and `complementarity` are sections 3.3 and 3.2.
"""
